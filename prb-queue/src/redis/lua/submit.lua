-- Adds jobs. ARGV: nonce, caller, most jobs, most bytes, then for each job its JSON and the rest of its book.
-- Answers one word a job: its id, 'F' or 'B'.
local nonce, last = ARGV[1], P .. 'prb:last:submit:' .. ARGV[2]
local max_jobs, max_bytes = tonumber(ARGV[3]), tonumber(ARGV[4])
local known = last_answer(last, nonce)
if known then return words(known) end
local open, held, answer = open_jobs(), open_bytes(), {}
for i = 5, #ARGV, 2 do
    local json, rest = ARGV[i], ARGV[i + 1]
    local refused = refusal(1, #json, max_jobs, max_bytes, open, held + open_delta)
    if refused then
        answer[#answer + 1] = refused
    else
        local id
        repeat
            id = tostring(redis.call('INCR', P .. 'id'))
        until redis.call('HSETNX', JOBS, id, json) == 1
        redis.call('LPUSH', WAITING, id)
        redis.call('HSET', BOOKS, id, #json .. rest)
        open, open_delta = open + 1, open_delta + #json
        answer[#answer + 1] = id
    end
end
write_sums()
keep_answer(last, nonce, table.concat(answer, ' '))
return answer
