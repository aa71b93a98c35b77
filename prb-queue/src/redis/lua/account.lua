-- Puts the books of jobs right that other programs added, ended, retried or removed. ARGV: ids.
for _, id in ipairs(ARGV) do
    if redis.call('HEXISTS', JOBS, id) == 0 then
        redis.call('SREM', SUCCEEDED, id)
        redis.call('SREM', FAILED, id)
        forget(id)
    else
        local succeeded = redis.call('SISMEMBER', SUCCEEDED, id) == 1
        local failed = redis.call('SISMEMBER', FAILED, id) == 1
        if succeeded and failed then redis.call('SREM', FAILED, id) end
        local ended, known = succeeded or failed, redis.call('ZSCORE', ENDED, id)
        local old, rest = book_of(id)
        local size = redis.call('HSTRLEN', JOBS, id)
        if rest == '|||' then
            local read, job = pcall(cjson.decode, redis.call('HGET', JOBS, id))
            local data = read and type(job) == 'table' and job.data
            if type(data) == 'table' then
                local payload = type(data.payload) == 'table' and data.payload or {}
                local pid = string.match(tostring(payload.pid or ''), '^%d+$') or ''
                rest = '||' .. pid .. '|' .. string.gsub(tostring(data.action or ''), '[^%w_]', '')
            end
        end
        if known then ended_delta = ended_delta - old else open_delta = open_delta - old end
        if ended then ended_delta = ended_delta + size else open_delta = open_delta + size end
        if ended and not known then
            redis.call('ZADD', ENDED, NOW, id)
            redis.call('ZREM', LEASES, id)
            redis.call('HDEL', TOKENS, id)
        elseif known and not ended then
            redis.call('ZREM', ENDED, id)
        end
        redis.call('HSET', BOOKS, id, string.format('%d', size) .. rest)
    end
end
write_sums()
return #ARGV
