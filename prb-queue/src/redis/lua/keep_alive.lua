-- Keep-alive of leased jobs for the original's stall check. ARGV: for each its id and token. Returns the ids
-- that this consumer no longer holds.
local lost = {}
for i = 1, #ARGV, 2 do
    if call('HGET', TOKENS, ARGV[i]) ~= ARGV[i + 1] then
        lost[#lost + 1] = ARGV[i]
    elseif call('ZSCORE', LEASES, ARGV[i]) then
        call('SREM', STALLING, ARGV[i])
    end
end
return lost
