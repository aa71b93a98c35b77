-- What every script starts with. KEYS[1] is the prefix of all keys. Redis runs a script whole or, where it
-- dies with the server, replays it whole from its log: no other client sees a state in between.
local P = KEYS[1]
local JOBS, WAITING, ACTIVE, DELAYED = P .. 'jobs', P .. 'waiting', P .. 'active', P .. 'delayed'
local SUCCEEDED, FAILED, STALLING = P .. 'succeeded', P .. 'failed', P .. 'stalling'
local EVENTS, EARLIER = P .. 'events', P .. 'earlierDelayed'
-- Ours: leases (zset id -> end of the lease in ms), tokens (id -> token), tries (id -> hand-outs),
-- books (id -> bytes|mark|pool|action), ended (zset id -> when), meta (sums).
local LEASES, TOKENS, TRIES = P .. 'prb:leases', P .. 'prb:tokens', P .. 'prb:tries'
local BOOKS, ENDED, META = P .. 'prb:books', P .. 'prb:ended', P .. 'prb:meta'
local clock = redis.call('TIME')
local NOW = clock[1] * 1000 + math.floor(clock[2] / 1000)
local LAST_TTL_MS = 60000
local open_delta, ended_delta = 0, 0

-- A caller has one call of a kind in flight. It repeats one whose answer was lost: the second is answered
-- with what the first did.
local function last_answer(key, nonce)
    local last = redis.call('GET', key)
    if last and string.sub(last, 1, #nonce + 1) == nonce .. ' ' then
        return string.sub(last, #nonce + 2)
    end
    return nil
end

local function keep_answer(key, nonce, answer)
    redis.call('SET', key, nonce .. ' ' .. answer, 'PX', LAST_TTL_MS)
end

local function words(text)
    local list = {}
    for word in string.gmatch(text, '%S+') do list[#list + 1] = word end
    return list
end

local function book_of(id)
    local book = redis.call('HGET', BOOKS, id)
    if not book then return 0, '|||' end
    local bytes, rest = string.match(book, '^(%d+)(.*)$')
    return tonumber(bytes) or 0, rest or '|||'
end

local function write_sums()
    if open_delta ~= 0 then redis.call('HINCRBY', META, 'open_bytes', open_delta) end
    if ended_delta ~= 0 then redis.call('HINCRBY', META, 'ended_bytes', ended_delta) end
end

-- Whether there is room for jobs more, of bytes more: 'F' too many jobs, 'B' too many bytes.
local function refusal(jobs, bytes, max_jobs, max_bytes, open, held)
    if open + jobs > max_jobs then return 'F' end
    if held + bytes > max_bytes then return 'B' end
    return nil
end

local function open_jobs()
    return redis.call('LLEN', WAITING) + redis.call('LLEN', ACTIVE) + redis.call('ZCARD', DELAYED)
end

local function open_bytes()
    return tonumber(redis.call('HGET', META, 'open_bytes') or '0')
end

-- Puts jobs in line whose delay or lease is over: the oldest in front. One that outlived three leases goes to
-- the back, so that it cannot hold up all others by killing its consumers.
local function promote()
    local due = redis.call('ZRANGEBYSCORE', DELAYED, '-inf', NOW, 'LIMIT', 0, 200)
    for i = #due, 1, -1 do
        redis.call('ZREM', DELAYED, due[i])
        redis.call('RPUSH', WAITING, due[i])
    end
    local over = redis.call('ZRANGEBYSCORE', LEASES, '-inf', NOW, 'LIMIT', 0, 200)
    if #over == 0 then return end
    table.sort(over, function(a, b) return (tonumber(a) or 0) > (tonumber(b) or 0) end)
    for _, id in ipairs(over) do
        redis.call('ZREM', LEASES, id)
        redis.call('SREM', STALLING, id)
        -- It may be in line already: the original's check for stalled jobs moves any.
        if redis.call('LREM', ACTIVE, 0, id) > 0 then
            local tries = tonumber(redis.call('HGET', TRIES, id) or '0')
            redis.call(tries > 3 and 'LPUSH' or 'RPUSH', WAITING, id)
        end
    end
end

-- Milliseconds until the next delay or lease is over, -1 where there is none.
local function next_timer()
    local at
    for _, key in ipairs({ DELAYED, LEASES }) do
        local head = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
        if head[2] and (not at or tonumber(head[2]) < at) then at = tonumber(head[2]) end
    end
    if not at then return -1 end
    return math.max(0, math.ceil(at - NOW))
end

-- Takes a leased job away from its consumer's hands, in whatever list it is. False where the lease is lost.
local function release(id, token)
    if redis.call('HGET', TOKENS, id) ~= token then return false end
    local held
    if redis.call('ZREM', LEASES, id) == 1 then
        -- The lease runs. The original's check for stalled jobs may have put the job in line all the same.
        if redis.call('LREM', ACTIVE, -1, id) == 0 then redis.call('LREM', WAITING, 0, id) end
        held = true
    else
        -- It ran out: what the consumer did still counts while nobody else has the job.
        held = redis.call('LREM', WAITING, 0, id) > 0
    end
    redis.call('HDEL', TOKENS, id)
    return held
end

-- Forgets a job wholly.
local function forget(id)
    local bytes = book_of(id)
    if redis.call('ZREM', ENDED, id) == 1 then
        ended_delta = ended_delta - bytes
    else
        open_delta = open_delta - bytes
    end
    redis.call('HDEL', BOOKS, id)
    redis.call('HDEL', TOKENS, id)
    redis.call('HDEL', TRIES, id)
    redis.call('ZREM', LEASES, id)
    redis.call('HDEL', JOBS, id)
end
