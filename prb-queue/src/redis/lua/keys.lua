-- Prefix of every script; `@P@` is the prefix of the queue's keys. Redis runs a script atomically, also when
-- it replays its log after a crash: no other client sees an intermediate state.
local call = redis.call
-- Events are only a shortcut: whoever waits for one also polls. Redis does not undo what a script has done before an
-- error, so one that a user without the right to publish gets must not end it.
local function publish(channel, message) redis.pcall('PUBLISH', channel, message) end
local ID, JOBS, WAITING, ACTIVE, DELAYED = '@P@id', '@P@jobs', '@P@waiting', '@P@active', '@P@delayed'
local SUCCEEDED, FAILED, STALLING = '@P@succeeded', '@P@failed', '@P@stalling'
local EVENTS, EARLIER, STALL_BLOCK = '@P@events', '@P@earlierDelayed', '@P@stallBlock'
-- Redis converts Lua numbers slowly, so arguments are passed as text.
local function text(number) return string.format('%d', number) end
-- Additional keys: leases (zset: id -> end of the lease in ms), tokens (id -> token of the lease), tries (id
-- -> hand-outs that did not end the job), expired (id -> leases that expired), books (the index: id ->
-- mark|pool|action|time of the submission in ms|bytes, of older versions and other programs without the time), ended (zset: id -> time of the end in ms), meta (sums).
local LEASES, TOKENS, TRIES = '@P@prb:leases', '@P@prb:tokens', '@P@prb:tries'
local EXPIRED = '@P@prb:expired'
local BOOKS, ENDED, META = '@P@prb:books', '@P@prb:ended', '@P@prb:meta'
