-- Renews or releases account leases. ARGV: trader, duration of the lease in ms (0 to release), then for each
-- lease the account and the token. Answers the accounts whose lease was lost.
local ttl, lost = tonumber(ARGV[2]), {}
for i = 3, #ARGV - 1, 2 do
    local key = '@P@prb:account:' .. ARGV[i]
    if call('GET', key) ~= ARGV[1] .. ':' .. ARGV[i + 1] then
        lost[#lost + 1] = ARGV[i]
    elseif ttl > 0 then
        call('PEXPIRE', key, ttl)
    else
        call('DEL', key)
    end
end
return lost
