-- Moves due jobs, and recovers jobs whose worker, one of the original's, is gone. ARGV: the stall interval
-- in ms. Works in two rounds, an interval apart: the first marks active jobs, the second moves those still
-- marked.
promote()
if not call('SET', STALL_BLOCK, '1', 'PX', ARGV[1], 'NX') then
    shorten(STALL_BLOCK, ARGV[1])
    return {}
end
local moved = {}
for _, id in ipairs(call('SMEMBERS', STALLING)) do
    if not call('ZSCORE', LEASES, id) and call('LREM', ACTIVE, 0, id) > 0 then
        call('HINCRBY', TRIES, id, 1)
        call('LPUSH', WAITING, id)
        moved[#moved + 1] = id
    end
end
call('DEL', STALLING)
for _, id in ipairs(call('LRANGE', ACTIVE, 0, -1)) do
    if not call('ZSCORE', LEASES, id) then call('SADD', STALLING, id) end
end
return moved
