-- Forgets a job in any state. ARGV: id. Answers 1 where there was one.
local id = ARGV[1]
local there = redis.call('HEXISTS', JOBS, id)
redis.call('LREM', WAITING, 0, id)
redis.call('LREM', ACTIVE, 0, id)
redis.call('ZREM', DELAYED, id)
redis.call('SREM', STALLING, id)
if redis.call('SREM', SUCCEEDED, id) == 1 then redis.call('HINCRBY', META, 'trimmed_succeeded', 1) end
if redis.call('SREM', FAILED, id) == 1 then redis.call('HINCRBY', META, 'trimmed_failed', 1) end
forget(id)
write_sums()
return there
