-- Polls the outcomes of jobs. ARGV: for each job its id and its submitter's mark. Answers for each job 'o'
-- (open), 'g' (gone), or 's' or 'f' and the JSON. A job with that id but another mark is another job: Redis
-- lost its counter.
local answer = {}
for i = 1, #ARGV, 2 do
    local id, outcome = ARGV[i], 'g'
    local book = call('HGET', BOOKS, id)
    if book and string.match(book, '^[^|]*') == ARGV[i + 1] and call('HEXISTS', JOBS, id) == 1 then
        if call('SISMEMBER', SUCCEEDED, id) == 1 then
            outcome = 's' .. call('HGET', JOBS, id)
        elseif call('SISMEMBER', FAILED, id) == 1 then
            outcome = 'f' .. call('HGET', JOBS, id)
        else
            outcome = 'o'
        end
    end
    answer[#answer + 1] = outcome
end
return answer
