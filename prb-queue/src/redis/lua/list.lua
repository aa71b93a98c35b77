-- Lists a page of jobs, newest first: waiting, active, delayed, then ended ones, the last ended first. ARGV:
-- the wanted state ('' for all), offset, limit. Answers the number of jobs, and for each job on the page its
-- id and its state.
local CHUNK, FEW = 256, 512
local wanted, offset, limit = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local total, page = 0, {}

-- Adds a list of `count` jobs; `slice` returns the ids from one position to another, counted from 0.
local function list(state, count, slice)
    if wanted ~= '' and wanted ~= state then return end
    local from, left = math.max(0, offset - total), limit - #page
    if left > 0 and from < count then
        for _, id in ipairs(slice(from, from + left - 1)) do page[#page + 1] = { id, state } end
    end
    total = total + count
end

local function range(command, key)
    return function(from, to) return call(command, key, text(from), text(to)) end
end

-- Jobs that succeeded or failed. A small set is sorted; members of a large one are picked from all ended
-- jobs.
local function ended_in(set, count)
    return function(from, to)
        local ids = {}
        if count <= FEW then
            local members, ended = call('SMEMBERS', set), {}
            for k, at in ipairs(call('ZMSCORE', ENDED, unpack(members))) do
                ended[members[k]] = tonumber(at or NOW)
            end
            table.sort(members, function(a, b)
                if ended[a] ~= ended[b] then return ended[a] > ended[b] end
                return (tonumber(a) or 0) > (tonumber(b) or 0)
            end)
            for place = from + 1, math.min(to + 1, count) do ids[#ids + 1] = members[place] end
            return ids
        end
        local at, place, some = 0, 0, nil
        repeat
            some = call('ZREVRANGE', ENDED, text(at), text(at + CHUNK - 1))
            for k, is in ipairs(#some > 0 and call('SMISMEMBER', set, unpack(some)) or {}) do
                if is == 1 then
                    if place >= from and place <= to then ids[#ids + 1] = some[k] end
                    place = place + 1
                end
            end
            at = at + CHUNK
        until place > to or #some < CHUNK
        return ids
    end
end

list('waiting', call('LLEN', WAITING), range('LRANGE', WAITING))
list('active', call('LLEN', ACTIVE), range('LRANGE', ACTIVE))
list('delayed', call('ZCARD', DELAYED), range('ZREVRANGE', DELAYED))
if wanted == '' then
    list('', call('ZCARD', ENDED), range('ZREVRANGE', ENDED))
    for _, job in ipairs(page) do
        if job[2] == '' then job[2] = call('SISMEMBER', FAILED, job[1]) == 1 and 'failed' or 'succeeded' end
    end
else
    local succeeded, failed = call('SCARD', SUCCEEDED), call('SCARD', FAILED)
    list('succeeded', succeeded, ended_in(SUCCEEDED, succeeded))
    list('failed', failed, ended_in(FAILED, failed))
end
return { total, page }
