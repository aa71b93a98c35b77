-- Renews leases, or hands the jobs back. ARGV: ms of the lease, 0 to hand back, 'u' where the hand-out is not
-- to count ('' else), then for each its id and token. Answers the ids whose lease was lost.
local ttl, uncounted, lost = tonumber(ARGV[1]), ARGV[2] == 'u', {}
-- Handed back from the end, so that the first is the first in line.
for i = #ARGV - 1, 3, -2 do
    local id, token = ARGV[i], ARGV[i + 1]
    if ttl == 0 then
        if release(id, token) then
            redis.call('SREM', STALLING, id)
            redis.call('RPUSH', WAITING, id)
            if uncounted then redis.call('HINCRBY', TRIES, id, -1) end
        else
            lost[#lost + 1] = id
        end
    elseif redis.call('HGET', TOKENS, id) ~= token then
        lost[#lost + 1] = id
    elseif redis.call('ZSCORE', LEASES, id) then
        redis.call('ZADD', LEASES, NOW + ttl, id)
        redis.call('SREM', STALLING, id)
    elseif redis.call('LREM', WAITING, 0, id) > 0 then
        -- It ran out, and nobody else has the job.
        redis.call('LPUSH', ACTIVE, id)
        redis.call('ZADD', LEASES, NOW + ttl, id)
    else
        redis.call('HDEL', TOKENS, id)
        lost[#lost + 1] = id
    end
end
return lost
