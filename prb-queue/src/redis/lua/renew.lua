-- Renews leases. ARGV: duration of the lease in ms, then for each lease the job's id and token. Answers the
-- ids whose lease was lost.
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
        -- It expired, but nobody else has taken the job.
        call('LPUSH', ACTIVE, id)
        call('ZADD', LEASES, NOW + ttl, id)
    else
        call('HDEL', TOKENS, id)
        lost[#lost + 1] = id
    end
end
return lost
