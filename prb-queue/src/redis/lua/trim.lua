-- Forgets ended jobs, the oldest first. ARGV: most ms of age, most jobs, most bytes, ms that each is kept in
-- any case, most to forget now. Answers how many it was.
local max_age, max_jobs, max_bytes = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local grace, limit = tonumber(ARGV[4]), tonumber(ARGV[5])
local jobs = redis.call('ZCARD', ENDED)
local bytes = tonumber(redis.call('HGET', META, 'ended_bytes') or '0')
local trimmed = 0
while trimmed < limit do
    local head = redis.call('ZRANGE', ENDED, 0, 0, 'WITHSCORES')
    if not head[1] then break end
    local id, age = head[1], NOW - tonumber(head[2])
    local over = jobs - trimmed > max_jobs or bytes + ended_delta > max_bytes
    if age <= max_age and not (over and age > grace) then break end
    if redis.call('SREM', SUCCEEDED, id) == 1 then
        redis.call('HINCRBY', META, 'trimmed_succeeded', 1)
    elseif redis.call('SREM', FAILED, id) == 1 then
        redis.call('HINCRBY', META, 'trimmed_failed', 1)
    end
    forget(id)
    trimmed = trimmed + 1
end
write_sums()
return trimmed
