-- Ends leases. ARGV: nonce, caller, then for each: id, token, kind ('s' succeeded, 'f' failed, 'r' to be
-- retried, 'd' was done before), ms until the retry, bytes of the JSON so far ('' where they were not counted
-- for sure), JSON, event. Answers one word a job: 'K' done, 'L' the lease was lost.
local FIELDS = 7
local nonce, last = ARGV[1], '@P@prb:last:finish:' .. ARGV[2]
local known = last_answer(last, nonce)
if known then return words(known) end
local ids = {}
for i = 3, #ARGV, FIELDS do ids[#ids + 1] = ARGV[i] end
local tokens, leases = call('HMGET', TOKENS, unpack(ids)), call('ZMSCORE', LEASES, unpack(ids))
call('ZREM', LEASES, unpack(ids))
local answer, seen, ended, open_delta, ended_delta = {}, {}, {}, 0, 0
local sets = { s = {}, f = {} }
for k, id in ipairs(ids) do
    local i = 3 + (k - 1) * FIELDS
    local kind, json = ARGV[i + 2], ARGV[i + 5]
    if seen[id] or tokens[k] ~= ARGV[i + 1] then
        answer[k] = 'L'
        -- Another consumer's lease goes on.
        if leases[k] and not seen[id] then call('ZADD', LEASES, leases[k], id) end
    elseif not release(id, leases[k]) then
        answer[k] = 'L'
        call('HDEL', TOKENS, id)
    else
        answer[k] = 'K'
        seen[id] = true
        call('HDEL', TOKENS, id)
        if kind ~= 'd' then
            local bytes = tonumber(ARGV[i + 4]) or call('HSTRLEN', JOBS, id)
            open_delta = open_delta - bytes
            if call('HSET', JOBS, id, json) == 1 then
                -- It was removed by another program.
                answer[k] = 'L'
                call('HDEL', JOBS, id)
                call('HDEL', BOOKS, id)
                call('HDEL', TRIES, id)
            elseif kind == 'r' then
                open_delta = open_delta + #json
                local due = NOW + tonumber(ARGV[i + 3])
                call('HINCRBY', TRIES, id, 1)
                call('SREM', STALLING, id)
                call('ZADD', DELAYED, due, id)
                if call('ZRANGE', DELAYED, 0, 0)[1] == id then call('PUBLISH', EARLIER, due) end
            else
                ended_delta = ended_delta + #json
                ended[#ended + 1], ended[#ended + 2] = NOW, id
                sets[kind][#sets[kind] + 1] = id
            end
            if answer[k] == 'K' then call('PUBLISH', EVENTS, ARGV[i + 6]) end
        end
    end
end
if #sets.s > 0 then call('SADD', SUCCEEDED, unpack(sets.s)) end
if #sets.f > 0 then call('SADD', FAILED, unpack(sets.f)) end
if #ended > 0 then call('ZADD', ENDED, unpack(ended)) end
if open_delta ~= 0 then call('HINCRBY', META, 'open_bytes', open_delta) end
if ended_delta ~= 0 then call('HINCRBY', META, 'ended_bytes', ended_delta) end
keep_answer(last, nonce, table.concat(answer, ' '))
return answer
