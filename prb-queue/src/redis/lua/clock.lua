-- All times are the server's, so that the clocks of its clients do not matter.
local clock = call('TIME')
local NOW = clock[1] * 1000 + math.floor(clock[2] / 1000)
