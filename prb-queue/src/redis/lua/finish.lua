-- Ends leases. ARGV: for each lease the job's id, token, kind ('s' succeeded, 'f' failed, 'r' to be retried,
-- 'd' done before), ms until the retry, bytes of the previous JSON ('' if it may not be counted), JSON,
-- event. Answers one word for each job: 'K' done, 'L' the lease was lost.
local FIELDS = 7
local ids = {}
for i = 1, #ARGV, FIELDS do ids[#ids + 1] = ARGV[i] end
local tokens = call('HMGET', TOKENS, unpack(ids))
local answer, mine, at, seen = {}, {}, {}, {}
for k, id in ipairs(ids) do
    local i = 1 + (k - 1) * FIELDS
    if not seen[id] and tokens[k] == ARGV[i + 1] then
        seen[id] = true
        mine[#mine + 1], at[#at + 1] = id, k
    elseif call('HGET', JOBS, id) == ARGV[i + 5] then
        -- The call is repeated because its answer was lost; the first run ended the job.
        answer[k] = 'K'
    else
        answer[k] = 'L'
    end
end
if #mine == 0 then return answer end
local leased
if #mine == 1 then
    leased = { call('ZREM', LEASES, mine[1]) == 1 }
else
    leased = call('ZMSCORE', LEASES, unpack(mine))
    call('ZREM', LEASES, unpack(mine))
end
call('HDEL', TOKENS, unpack(mine))
local ended, sets, now, open_delta, ended_delta = {}, { s = {}, f = {} }, text(NOW), 0, 0
for n, id in ipairs(mine) do
    local i = 1 + (at[n] - 1) * FIELDS
    local kind, json = ARGV[i + 2], ARGV[i + 5]
    local word = release(id, leased[n]) and 'K' or 'L'
    if word == 'K' and kind ~= 'd' then
        local bytes = tonumber(ARGV[i + 4]) or call('HSTRLEN', JOBS, id)
        open_delta = open_delta - bytes
        if call('HSET', JOBS, id, json) == 1 then
            -- Another program has removed the job.
            word = 'L'
            call('HDEL', JOBS, id)
            call('HDEL', BOOKS, id)
            call('HDEL', TRIES, id)
            call('HDEL', EXPIRED, id)
        elseif kind == 'r' then
            open_delta = open_delta + #json
            local due = text(NOW + tonumber(ARGV[i + 3]))
            call('HINCRBY', TRIES, id, 1)
            call('SREM', STALLING, id)
            call('ZADD', DELAYED, due, id)
            if call('ZRANGE', DELAYED, '0', '0')[1] == id then publish(EARLIER, due) end
        else
            ended_delta = ended_delta + #json
            ended[#ended + 1], ended[#ended + 2] = now, id
            sets[kind][#sets[kind] + 1] = id
        end
        if word == 'K' then publish(EVENTS, ARGV[i + 6]) end
    end
    answer[at[n]] = word
end
if #sets.s > 0 then call('SADD', SUCCEEDED, unpack(sets.s)) end
if #sets.f > 0 then call('SADD', FAILED, unpack(sets.f)) end
if #ended > 0 then call('ZADD', ENDED, unpack(ended)) end
if open_delta ~= 0 then call('HINCRBY', META, 'open_bytes', text(open_delta)) end
if ended_delta ~= 0 then call('HINCRBY', META, 'ended_bytes', text(ended_delta)) end
return answer
