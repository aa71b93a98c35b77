-- Ends leases without ending their jobs. ARGV: ms until they are in line again, 0 for at once, 'u' where the
-- hand-out is not to count ('' else), then for each its id and token, the oldest first. Lost leases are passed
-- over.
local delay, uncounted = tonumber(ARGV[1]), ARGV[2] == 'u'
local due, sooner = text(NOW + delay), false
-- From the end, so that the first is the first in line.
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
if sooner then call('PUBLISH', EARLIER, due) end
return #ARGV
