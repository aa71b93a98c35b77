-- Ends leases. ARGV: nonce, caller, then for each: id, token, kind ('s' succeeded, 'f' failed, 'r' to be
-- retried), ms until the retry, JSON, event. Answers one word a job: 'K' done, 'L' the lease was lost.
local nonce, last = ARGV[1], P .. 'prb:last:finish:' .. ARGV[2]
local known = last_answer(last, nonce)
if known then return words(known) end
local answer, stalling = {}, redis.call('EXISTS', STALLING) == 1
for i = 3, #ARGV, 6 do
    local id, kind, json = ARGV[i], ARGV[i + 2], ARGV[i + 4]
    if not release(id, ARGV[i + 1]) or redis.call('HEXISTS', JOBS, id) == 0 then
        answer[#answer + 1] = 'L'
    else
        if stalling then redis.call('SREM', STALLING, id) end
        local bytes, rest = book_of(id)
        open_delta = open_delta - bytes
        redis.call('HSET', JOBS, id, json)
        redis.call('HSET', BOOKS, id, #json .. rest)
        if kind == 'r' then
            open_delta = open_delta + #json
            local due = NOW + tonumber(ARGV[i + 3])
            redis.call('ZADD', DELAYED, due, id)
            if redis.call('ZRANGE', DELAYED, 0, 0)[1] == id then redis.call('PUBLISH', EARLIER, due) end
        else
            ended_delta = ended_delta + #json
            redis.call('SADD', kind == 's' and SUCCEEDED or FAILED, id)
            redis.call('ZADD', ENDED, NOW, id)
        end
        redis.call('PUBLISH', EVENTS, ARGV[i + 5])
        answer[#answer + 1] = 'K'
    end
end
write_sums()
keep_answer(last, nonce, table.concat(answer, ' '))
return answer
