-- Puts a failed job in line again. ARGV: id, most jobs, most bytes. Answers 'K', 'N' where no job of that id
-- has failed, 'F' or 'B' where there is no room.
local id = ARGV[1]
if redis.call('SISMEMBER', FAILED, id) == 0 or redis.call('HEXISTS', JOBS, id) == 0 then return 'N' end
local size = redis.call('HSTRLEN', JOBS, id)
local refused = refusal(1, size, tonumber(ARGV[2]), tonumber(ARGV[3]), open_jobs(), open_bytes())
if refused then return refused end
local bytes, rest = book_of(id)
if redis.call('ZREM', ENDED, id) == 1 then ended_delta = ended_delta - bytes end
open_delta = open_delta + size
redis.call('HSET', BOOKS, id, size .. rest)
redis.call('SREM', FAILED, id)
redis.call('LPUSH', WAITING, id)
write_sums()
return 'K'
