-- Tells the original's workers that leased jobs are alive. ARGV: for each its id and token. Answers the ids
-- that this consumer has not got any more.
local lost = {}
for i = 1, #ARGV, 2 do
    if call('HGET', TOKENS, ARGV[i]) ~= ARGV[i + 1] then
        lost[#lost + 1] = ARGV[i]
    elseif call('ZSCORE', LEASES, ARGV[i]) then
        call('SREM', STALLING, ARGV[i])
    end
end
return lost
