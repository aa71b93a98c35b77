-- What became of jobs. ARGV: for each its id and its submitter's mark. Answers one a job: 'o' open, 'g' gone,
-- else 's' or 'f' and the JSON. A job of that number with another mark is another job: the counter was lost.
local answer = {}
for i = 1, #ARGV, 2 do
    local id, fate = ARGV[i], 'g'
    local book = redis.call('HGET', BOOKS, id)
    if book and string.match(book, '^%d+|([^|]*)') == ARGV[i + 1] and redis.call('HEXISTS', JOBS, id) == 1 then
        if redis.call('SISMEMBER', SUCCEEDED, id) == 1 then
            fate = 's' .. redis.call('HGET', JOBS, id)
        elseif redis.call('SISMEMBER', FAILED, id) == 1 then
            fate = 'f' .. redis.call('HGET', JOBS, id)
        else
            fate = 'o'
        end
    end
    answer[#answer + 1] = fate
end
return answer
