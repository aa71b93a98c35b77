-- Takes a job whose token was right away from its consumer's hands, in whatever list it is. `leased` is the
-- end of its lease. False where somebody else has it.
local function release(id, leased)
    if leased then
        -- The original's check for stalled jobs may have put it in line all the same.
        if call('LREM', ACTIVE, '-1', id) == 0 then call('LREM', WAITING, '0', id) end
        return true
    end
    -- The lease ran out: what the consumer did still counts while nobody else has the job.
    return call('LREM', WAITING, '0', id) > 0
end
