local open_delta, ended_delta = 0, 0

local function write_sums()
    if open_delta ~= 0 then call('HINCRBY', META, 'open_bytes', open_delta) end
    if ended_delta ~= 0 then call('HINCRBY', META, 'ended_bytes', ended_delta) end
end

-- Deletes a job that no list names any more.
local function delete_job(id)
    local bytes = call('HSTRLEN', JOBS, id)
    if bytes == 0 then
        -- Another program has removed it: the size at submission is the best estimate.
        bytes = tonumber(string.match(call('HGET', BOOKS, id) or '', '|(%d+)$') or '0')
    end
    if call('ZREM', ENDED, id) == 1 then
        ended_delta = ended_delta - bytes
    else
        open_delta = open_delta - bytes
    end
    call('HDEL', BOOKS, id)
    call('HDEL', TOKENS, id)
    call('HDEL', TRIES, id)
    call('HDEL', EXPIRED, id)
    call('ZREM', LEASES, id)
    call('HDEL', JOBS, id)
end
