-- All times are the server's, so that the clocks of its clients do not matter.
local clock = call('TIME')
local NOW = clock[1] * 1000 + math.floor(clock[2] / 1000)

-- Redis keeps the time at which a key expires, so that it lives longer after the clock was set back. Shortens
-- the life of a key that has far more left than the `ms` it is made for.
local function shorten(key, ms)
    if call('PTTL', key) > 4 * ms then call('PEXPIRE', key, ms) end
end
