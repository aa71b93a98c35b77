-- Moves due delayed jobs to the front of the waiting list: the first due in front, of those due together the
-- oldest. Jobs are sorted here because Redis orders equal scores by their text.
local function promote_delayed()
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

-- Moves jobs whose lease expired to the front of the waiting list, the oldest first. From its fourth expiry
-- on a job goes to the back, so that a job that crashes its consumers cannot block all others. Jobs that
-- were handed back do not count: younger ones would overtake them.
local function expire()
    local over = call('ZRANGEBYSCORE', LEASES, '-inf', NOW, 'LIMIT', 0, 200)
    table.sort(over, function(a, b) return (tonumber(a) or 0) > (tonumber(b) or 0) end)
    local last = {}
    for _, id in ipairs(over) do
        call('ZREM', LEASES, id)
        call('SREM', STALLING, id)
        -- It may be waiting already: the original's stall check moves any active job.
        if call('LREM', ACTIVE, 0, id) > 0 then
            call('HINCRBY', TRIES, id, 1)
            if call('HINCRBY', EXPIRED, id, 1) > 3 then
                last[#last + 1] = id
            else
                call('RPUSH', WAITING, id)
            end
        end
    end
    -- Jobs at the back keep their order, the oldest first.
    for i = #last, 1, -1 do call('LPUSH', WAITING, last[i]) end
end

-- After the clock was set back, moves all times back with it: leases and delays would last that much longer,
-- and the jobs of a consumer that has died would not be handed out before the clock has caught up.
local function follow_clock()
    local last = tonumber(call('HGET', META, 'clock') or '0')
    -- Replicas' clocks differ by less than this.
    if NOW + 1000 < last then
        for _, key in ipairs({ DELAYED, LEASES, ENDED }) do
            for _, id in ipairs(call('ZRANGE', key, '0', '-1')) do
                call('ZINCRBY', key, text(NOW - last), id)
            end
        end
    end
    call('HSET', META, 'clock', text(NOW))
end

-- Moves due jobs and expired leases. Answers when the next delay or lease ends, nil if there is none.
local function promote()
    follow_clock()
    local at
    for key, move in pairs({ [DELAYED] = promote_delayed, [LEASES] = expire }) do
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
