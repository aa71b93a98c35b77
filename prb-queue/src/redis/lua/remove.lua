-- Deletes a job in any state. ARGV: id. Answers 1 if the job existed.
local id = ARGV[1]
local there = call('HEXISTS', JOBS, id)
unlist(id)
if call('SREM', SUCCEEDED, id) == 1 then call('HINCRBY', META, 'trimmed_succeeded', 1) end
if call('SREM', FAILED, id) == 1 then call('HINCRBY', META, 'trimmed_failed', 1) end
delete_job(id)
write_sums()
return there
