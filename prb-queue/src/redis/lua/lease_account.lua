-- Leases an account. ARGV: trader, account, duration of the lease in ms. Answers the lease's token, or 0
-- while another trader has the account. Tokens follow the clock, so that they stay unique after Redis has
-- lost its data.
local key = '@P@prb:account:' .. ARGV[2]
local holder = call('GET', key)
if holder and string.match(holder, '^(.*):%d+$') ~= ARGV[1] then
    shorten(key, ARGV[3])
    return 0
end
local last = tonumber(call('GET', '@P@prb:accounts') or '0')
local token = math.max(last + 1, clock[1] * 1000000 + clock[2])
local text = string.format('%.0f', token)
call('SET', '@P@prb:accounts', text)
call('SET', key, ARGV[1] .. ':' .. text, 'PX', ARGV[3])
return token
