-- Adds jobs. ARGV: nonce, caller, most jobs, most bytes, then for each job its JSON and its book. Answers one
-- word a job: its id, 'F' for too many jobs, 'B' for too many bytes.
local nonce, last = ARGV[1], '@P@prb:last:submit:' .. ARGV[2]
local max_jobs, max_bytes = tonumber(ARGV[3]), tonumber(ARGV[4])
local known = last_answer(last, nonce)
if known then return words(known) end
local open, held = open_jobs(), open_bytes()
local answer, line, books, added = {}, {}, {}, 0
for i = 5, #ARGV, 2 do
    local json = ARGV[i]
    if open >= max_jobs then
        answer[#answer + 1] = 'F'
    elseif held + added + #json > max_bytes then
        answer[#answer + 1] = 'B'
    else
        local id
        repeat
            id = tostring(call('INCR', ID))
        until call('HSETNX', JOBS, id, json) == 1
        line[#line + 1] = id
        books[#books + 1] = id
        books[#books + 1] = ARGV[i + 1] .. '|' .. #json
        open, added = open + 1, added + #json
        answer[#answer + 1] = id
    end
end
if #line > 0 then
    call('LPUSH', WAITING, unpack(line))
    call('HSET', BOOKS, unpack(books))
    call('HINCRBY', META, 'open_bytes', added)
    keep_answer(last, nonce, table.concat(answer, ' '))
end
return answer
