-- What every script starts with; `@P@` is the prefix of the queue's keys. Redis runs a script whole or, where
-- it dies with the server, replays it whole from its log: no other client sees a state in between.
local call = redis.call
local ID, JOBS, WAITING, ACTIVE, DELAYED = '@P@id', '@P@jobs', '@P@waiting', '@P@active', '@P@delayed'
local SUCCEEDED, FAILED, STALLING = '@P@succeeded', '@P@failed', '@P@stalling'
local EVENTS, EARLIER, STALL_BLOCK = '@P@events', '@P@earlierDelayed', '@P@stallBlock'
-- Redis writes Lua's numbers slowly: arguments are text.
local function text(number) return string.format('%d', number) end
-- Ours: leases (zset id -> end of the lease in ms), tokens (id -> token of the lease), tries (id -> hand-outs
-- that led to no end), expired (id -> leases that ran out), books (id -> mark|pool|action|bytes), ended (zset id -> when), meta (sums).
local LEASES, TOKENS, TRIES = '@P@prb:leases', '@P@prb:tokens', '@P@prb:tries'
local EXPIRED = '@P@prb:expired'
local BOOKS, ENDED, META = '@P@prb:books', '@P@prb:ended', '@P@prb:meta'
