-- Puts delayed jobs in line that are due: the first due in front, of those due together the oldest. Redis
-- orders the latter by their digits.
local function raise()
    local found = call('ZRANGEBYSCORE', DELAYED, '-inf', NOW, 'WITHSCORES', 'LIMIT', 0, 200)
    local due = {}
    for i = 1, #found, 2 do
        due[#due + 1] = { id = found[i], at = tonumber(found[i + 1]), number = tonumber(found[i]) or 0 }
    end
    table.sort(due, function(a, b)
        if a.at ~= b.at then return a.at > b.at end
        return a.number > b.number
    end)
    for _, job in ipairs(due) do
        call('ZREM', DELAYED, job.id)
        call('RPUSH', WAITING, job.id)
    end
end

-- Puts jobs in line whose lease is over: the oldest in front. One whose fourth lease ran out goes to the back, so
-- that it cannot hold up all others by killing its consumers. Jobs that were handed back do not count: they would
-- be overtaken by younger ones.
local function expire()
    local over = call('ZRANGEBYSCORE', LEASES, '-inf', NOW, 'LIMIT', 0, 200)
    table.sort(over, function(a, b) return (tonumber(a) or 0) > (tonumber(b) or 0) end)
    local last = {}
    for _, id in ipairs(over) do
        call('ZREM', LEASES, id)
        call('SREM', STALLING, id)
        -- It may be in line already: the original's check for stalled jobs moves any.
        if call('LREM', ACTIVE, 0, id) > 0 then
            call('HINCRBY', TRIES, id, 1)
            if call('HINCRBY', EXPIRED, id, 1) > 3 then
                last[#last + 1] = id
            else
                call('RPUSH', WAITING, id)
            end
        end
    end
    -- At the back too, the oldest is the first of them.
    for i = #last, 1, -1 do call('LPUSH', WAITING, last[i]) end
end

-- Raises and expires what is due. Answers when the next delay or lease is over, nil where there is none.
local function promote()
    local at
    for key, move in pairs({ [DELAYED] = raise, [LEASES] = expire }) do
        local head = call('ZRANGE', key, '0', '0', 'WITHSCORES')
        if head[2] and tonumber(head[2]) <= NOW then
            move()
            head = call('ZRANGE', key, '0', '0', 'WITHSCORES')
        end
        if head[2] and (not at or tonumber(head[2]) < at) then at = tonumber(head[2]) end
    end
    return at
end

local function ms_to(at)
    return at and math.max(0, math.ceil(at - NOW)) or -1
end
