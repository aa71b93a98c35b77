-- Adds jobs. ARGV: number of the call, caller, most jobs, most bytes, then for each job its JSON and its
-- index entry. Answers one word for each job: its id, 'F' for too many jobs, 'B' for too many bytes.
local seq, last = ARGV[1], '@P@prb:last:submit:' .. ARGV[2]
local max_jobs, max_bytes = tonumber(ARGV[3]), tonumber(ARGV[4])
local known = last_answer(last, seq)
if known then return words(known) end
local open, held = open_jobs(), open_bytes()
local answer, taken, added = {}, {}, 0
for i = 5, #ARGV, 2 do
    local size = #ARGV[i]
    if open >= max_jobs then
        answer[#answer + 1] = 'F'
    elseif held + added + size > max_bytes then
        answer[#answer + 1] = 'B'
    else
        open, added = open + 1, added + size
        taken[#taken + 1] = i
        answer[#answer + 1] = 'K'
    end
end
if #taken > 0 then
    local ids
    repeat
        -- Skip ids that are in use: after a restore the counter may be older than the jobs.
        local top = call('INCRBY', ID, text(#taken))
        ids = {}
        for k = 1, #taken do ids[k] = text(top - #taken + k) end
        local free = true
        for _, job in ipairs(call('HMGET', JOBS, unpack(ids))) do free = free and not job end
    until free
    local jobs, books = {}, {}
    for k, i in ipairs(taken) do
        jobs[2 * k - 1], jobs[2 * k] = ids[k], ARGV[i]
        books[2 * k - 1], books[2 * k] = ids[k], ARGV[i + 1] .. '|' .. text(NOW) .. '|' .. #ARGV[i]
        answer[(i - 3) / 2] = ids[k]
    end
    call('HSET', JOBS, unpack(jobs))
    call('HSET', BOOKS, unpack(books))
    call('LPUSH', WAITING, unpack(ids))
    call('HINCRBY', META, 'open_bytes', text(added))
end
keep_answer(last, seq, table.concat(answer, ' '))
return answer
