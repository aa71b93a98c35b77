-- Renews leases, or hands the jobs back. ARGV: ms of the lease, 0 to hand back, 'u' where the hand-out is not
-- to count ('' else), then for each its id and token. Answers the ids whose lease was lost.
local ttl, uncounted, lost = tonumber(ARGV[1]), ARGV[2] == 'u', {}
-- Handed back from the end, so that the first is the first in line.
for i = #ARGV - 1, 3, -2 do
    local id = ARGV[i]
    local leased = call('ZSCORE', LEASES, id)
    if call('HGET', TOKENS, id) ~= ARGV[i + 1] then
        lost[#lost + 1] = id
    elseif leased and ttl > 0 then
        call('ZADD', LEASES, NOW + ttl, id)
        call('SREM', STALLING, id)
    elseif not release(id, leased) then
        call('HDEL', TOKENS, id)
        lost[#lost + 1] = id
    elseif ttl > 0 then
        -- It ran out, and nobody else had the job.
        call('LPUSH', ACTIVE, id)
        call('ZADD', LEASES, NOW + ttl, id)
    else
        call('ZREM', LEASES, id)
        call('HDEL', TOKENS, id)
        call('SREM', STALLING, id)
        call('RPUSH', WAITING, id)
        if not uncounted then call('HINCRBY', TRIES, id, 1) end
    end
end
return lost
