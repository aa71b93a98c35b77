-- Repairs the index entries of jobs that other programs added, ended, retried or removed. ARGV: ids.
for _, id in ipairs(ARGV) do
    if call('HEXISTS', JOBS, id) == 0 then
        call('SREM', SUCCEEDED, id)
        call('SREM', FAILED, id)
        delete_job(id)
    else
        local succeeded = call('SISMEMBER', SUCCEEDED, id) == 1
        local failed = call('SISMEMBER', FAILED, id) == 1
        if succeeded and failed then call('SREM', FAILED, id) end
        local ended, known = succeeded or failed, call('ZSCORE', ENDED, id)
        local size = call('HSTRLEN', JOBS, id)
        local booked = call('HEXISTS', BOOKS, id) == 1
        if not booked then
            local pid, action = '', ''
            local read, job = pcall(cjson.decode, call('HGET', JOBS, id))
            local data = read and type(job) == 'table' and job.data
            if type(data) == 'table' then
                local payload = type(data.payload) == 'table' and data.payload or {}
                pid = string.match(tostring(payload.pid or ''), '^%d+$') or ''
                action = string.gsub(tostring(data.action or ''), '[^%w_]', '')
            end
            call('HSET', BOOKS, id, '|' .. pid .. '|' .. action .. '|' .. size)
        end
        if ended and not known then
            if booked then open_delta = open_delta - size end
            ended_delta = ended_delta + size
            call('ZADD', ENDED, NOW, id)
            call('ZREM', LEASES, id)
            call('HDEL', TOKENS, id)
        elseif known and not ended then
            ended_delta, open_delta = ended_delta - size, open_delta + size
            call('ZREM', ENDED, id)
        elseif not booked and not ended then
            open_delta = open_delta + size
        end
    end
end
write_sums()
return #ARGV
