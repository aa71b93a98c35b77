-- Takes a job from its consumer if its token is valid, whatever list it is in. `leased` is the end of its
-- lease. Returns false if another consumer holds it.
local function release(id, leased)
    if leased then
        -- The original's stall check may have made it available nevertheless.
        if call('LREM', ACTIVE, '-1', id) == 0 then call('LREM', WAITING, '0', id) end
        return true
    end
    -- The lease expired: the consumer's result still counts as long as no other one holds the job.
    return call('LREM', WAITING, '0', id) > 0
end
