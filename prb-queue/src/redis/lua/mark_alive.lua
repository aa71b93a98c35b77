-- Marks leased jobs as alive for the original's stall check. ARGV: for each lease the job's id and token.
-- Answers the ids whose lease was lost.
local lost = {}
for i = 1, #ARGV, 2 do
    if call('HGET', TOKENS, ARGV[i]) ~= ARGV[i + 1] then
        lost[#lost + 1] = ARGV[i]
    elseif call('ZSCORE', LEASES, ARGV[i]) then
        call('SREM', STALLING, ARGV[i])
    end
end
return lost
