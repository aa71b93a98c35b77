-- Moves a failed job to the waiting list. ARGV: id, most jobs, most bytes. Answers 'K', 'N' if no job with
-- that id has failed, 'F' or 'B' if the queue is full.
local id = ARGV[1]
if call('SISMEMBER', FAILED, id) == 0 or call('HEXISTS', JOBS, id) == 0 then return 'N' end
local size = call('HSTRLEN', JOBS, id)
if open_jobs() >= tonumber(ARGV[2]) then return 'F' end
if open_bytes() + size > tonumber(ARGV[3]) then return 'B' end
if call('ZREM', ENDED, id) == 1 then call('HINCRBY', META, 'ended_bytes', -size) end
call('HINCRBY', META, 'open_bytes', size)
call('SREM', FAILED, id)
call('LPUSH', WAITING, id)
return 'K'
