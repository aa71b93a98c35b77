-- Ends leases without ending their jobs. ARGV: ms until the jobs are available again (0 for at once), 'u' if
-- the hand-out does not count (otherwise ''), then for each lease the job's id and token, oldest first. Lost
-- leases are skipped.
local delay, uncounted = tonumber(ARGV[1]), ARGV[2] == 'u'
local due, sooner = text(NOW + delay), false
-- In reverse order, so that the first one ends up at the front of the waiting list.
for i = #ARGV - 1, 3, -2 do
    local id = ARGV[i]
    if call('HGET', TOKENS, id) == ARGV[i + 1] then
        local ours = release(id, call('ZSCORE', LEASES, id))
        call('HDEL', TOKENS, id)
        if ours then
            call('ZREM', LEASES, id)
            call('SREM', STALLING, id)
            if not uncounted then call('HINCRBY', TRIES, id, 1) end
            if delay > 0 then
                call('ZADD', DELAYED, due, id)
                sooner = sooner or call('ZRANGE', DELAYED, '0', '0')[1] == id
            else
                call('RPUSH', WAITING, id)
            end
        end
    end
end
if sooner then publish(EARLIER, due) end
return #ARGV
