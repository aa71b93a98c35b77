-- Takes a job, whose token has been checked, from its consumer, in whatever list it is. `leased` is the end
-- of its lease. Answers false if another consumer has the job.
local function release(id, leased)
    if leased then
        -- The original's stall check may have moved it to the waiting list anyway.
        if call('LREM', ACTIVE, '-1', id) == 0 then call('LREM', WAITING, '0', id) end
        return true
    end
    -- The lease expired; the consumer's result still counts while nobody else has the job.
    return call('LREM', WAITING, '0', id) > 0
end
