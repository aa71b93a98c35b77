-- Leases jobs. ARGV: nonce, caller, then for each job wanted the lease's ms and its token. Answers the ms to
-- the next timer, and for each job its id, token, earlier hand-outs and JSON.
local nonce, last = ARGV[1], P .. 'prb:last:take:' .. ARGV[2]
local jobs = {}
local known = last_answer(last, nonce)
if known then
    for _, word in ipairs(words(known)) do
        local id, token = string.match(word, '^(.*):(%d+)$')
        local json = redis.call('HGET', JOBS, id)
        if json and redis.call('HGET', TOKENS, id) == token then
            jobs[#jobs + 1] = { id, token, tonumber(redis.call('HGET', TRIES, id) or '1') - 1, json }
        end
    end
    return { next_timer(), jobs }
end
promote()
local taken, stalling = {}, redis.call('EXISTS', STALLING) == 1
for i = 3, #ARGV, 2 do
    local found = false
    while not found do
        local id = redis.call('RPOPLPUSH', WAITING, ACTIVE)
        if not id then break end
        local json = redis.call('HGET', JOBS, id)
        -- Not there: removed. Done: put in line by hand. Leased: the original's check put it in line.
        if json and redis.call('SISMEMBER', SUCCEEDED, id) == 0
            and redis.call('ZADD', LEASES, 'NX', NOW + tonumber(ARGV[i]), id) == 1 then
            found = true
            redis.call('HSET', TOKENS, id, ARGV[i + 1])
            if stalling then redis.call('SREM', STALLING, id) end
            jobs[#jobs + 1] = { id, ARGV[i + 1], redis.call('HINCRBY', TRIES, id, 1) - 1, json }
            taken[#taken + 1] = id .. ':' .. ARGV[i + 1]
        elseif redis.call('ZSCORE', LEASES, id) then
            -- Its place in active stays with the consumer that holds it.
            redis.call('LREM', ACTIVE, 0, id)
            redis.call('LPUSH', ACTIVE, id)
        else
            redis.call('LREM', ACTIVE, 1, id)
        end
    end
    if not found then break end
end
if #taken > 0 then keep_answer(last, nonce, table.concat(taken, ' ')) end
return { next_timer(), jobs }
