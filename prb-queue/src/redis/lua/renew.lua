-- Renews leases. ARGV: ms of the lease, then for each its id and token. Answers the ids whose lease was lost.
local ttl, lost = tonumber(ARGV[1]), {}
for i = 2, #ARGV, 2 do
    local id = ARGV[i]
    local leased = call('ZSCORE', LEASES, id)
    if call('HGET', TOKENS, id) ~= ARGV[i + 1] then
        lost[#lost + 1] = id
    elseif leased then
        call('ZADD', LEASES, NOW + ttl, id)
        call('SREM', STALLING, id)
    elseif release(id, leased) then
        -- It ran out, and nobody else had the job.
        call('LPUSH', ACTIVE, id)
        call('ZADD', LEASES, NOW + ttl, id)
    else
        call('HDEL', TOKENS, id)
        lost[#lost + 1] = id
    end
end
return lost
