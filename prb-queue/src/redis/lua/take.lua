-- Leases jobs. ARGV: number of the call, caller, when the caller last had the timers checked (ms), then for
-- each wanted job the lease's duration in ms and its token. Answers when the timers were checked; the ms
-- until the next timer, or, if they were not checked this time, of these leases (-1 if there is none); and
-- for each job its id, token, earlier hand-outs, JSON, and ms since its submission (-1 if that is not recorded).
local seq, last, looked = ARGV[1], '@P@prb:last:take:' .. ARGV[2], tonumber(ARGV[3])
local at
-- Frequent takes check the timers at most once a second.
if math.abs(NOW - looked) >= 1000 then
    at, looked = promote(), NOW
end
local function age(book)
    local submitted = string.match(book or '', '^[^|]*|[^|]*|[^|]*|(%d+)|%d+$')
    return submitted and math.max(0, NOW - tonumber(submitted)) or -1
end
local jobs = {}
local known = last_answer(last, seq)
if known then
    for _, word in ipairs(words(known)) do
        local id, token = string.match(word, '^(.*):(%d+)$')
        local json = call('HGET', JOBS, id)
        if json and call('HGET', TOKENS, id) == token then
            jobs[#jobs + 1] = { id, token, tonumber(call('HGET', TRIES, id) or '0'), json, age(call('HGET', BOOKS, id)) }
        end
    end
end
local seen, taken = {}, {}
local wanted = known and 0 or (#ARGV - 3) / 2
while #jobs < wanted do
    local ids = call('RPOP', WAITING, text(wanted - #jobs))
    if not ids then break end
    local json, held = call('HMGET', JOBS, unpack(ids)), call('ZMSCORE', LEASES, unpack(ids))
    local tries = call('EXISTS', TRIES) == 1 and call('HMGET', TRIES, unpack(ids)) or {}
    local books = call('HMGET', BOOKS, unpack(ids))
    local active, leases, tokens = {}, {}, {}
    for k, id in ipairs(ids) do
        if held[k] or seen[id] then
            -- Already leased: it was put on the waiting list by hand, or by the original's stall check.
            call('LREM', ACTIVE, 0, id)
            active[#active + 1] = id
        elseif json[k] then
            seen[id] = true
            local ttl, token = ARGV[4 + 2 * #jobs], ARGV[5 + 2 * #jobs]
            local over = NOW + tonumber(ttl)
            if not at or over < at then at = over end
            active[#active + 1] = id
            leases[#leases + 1], leases[#leases + 2] = text(over), id
            tokens[#tokens + 1], tokens[#tokens + 2] = id, token
            jobs[#jobs + 1] = { id, token, tonumber(tries[k] or '0'), json[k], age(books[k]) }
            taken[#taken + 1] = id .. ':' .. token
        end
        -- Otherwise it was removed.
    end
    if #active > 0 then call('LPUSH', ACTIVE, unpack(active)) end
    if #leases > 0 then
        call('ZADD', LEASES, unpack(leases))
        call('HSET', TOKENS, unpack(tokens))
    end
end
if not known then keep_answer(last, seq, table.concat(taken, ' ')) end
return { looked, ms_to(at), jobs }
