-- Deletes ended jobs, oldest first. ARGV: maximum age in ms, most jobs, most bytes, ms for which every job
-- is kept, most jobs to delete now. Answers how many were deleted.
local max_age, max_jobs, max_bytes = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local grace, limit = tonumber(ARGV[4]), tonumber(ARGV[5])
local jobs = call('ZCARD', ENDED)
local bytes = tonumber(call('HGET', META, 'ended_bytes') or '0')
local trimmed = 0
while trimmed < limit do
    local head = call('ZRANGE', ENDED, 0, 0, 'WITHSCORES')
    if not head[1] then break end
    local id, age = head[1], NOW - tonumber(head[2])
    local over = jobs - trimmed > max_jobs or bytes + ended_delta > max_bytes
    if age <= max_age and not (over and age > grace) then break end
    local succeeded, failed = call('SREM', SUCCEEDED, id), call('SREM', FAILED, id)
    if succeeded + failed == 0 and call('HEXISTS', JOBS, id) == 1 then
        -- Another program has put it on the waiting list again.
        local size = call('HSTRLEN', JOBS, id)
        ended_delta, open_delta = ended_delta - size, open_delta + size
        call('ZREM', ENDED, id)
        jobs = jobs - 1
    else
        if succeeded == 1 then
            call('HINCRBY', META, 'trimmed_succeeded', 1)
        elseif failed == 1 then
            call('HINCRBY', META, 'trimmed_failed', 1)
        end
        delete_job(id)
        trimmed = trimmed + 1
    end
end
write_sums()
-- Other programs change JSON without updating the sums, so reset them whenever they are known to be 0.
if jobs == trimmed then call('HDEL', META, 'ended_bytes') end
if open_jobs() == 0 then call('HDEL', META, 'open_bytes') end
return trimmed
