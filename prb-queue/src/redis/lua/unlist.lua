-- Takes a job off the lists of open jobs.
local function unlist(id)
    call('LREM', WAITING, 0, id)
    call('LREM', ACTIVE, 0, id)
    call('ZREM', DELAYED, id)
    call('SREM', STALLING, id)
end
