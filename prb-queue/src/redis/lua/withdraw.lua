-- Deletes a job that waits or is delayed. ARGV: id, its submitter's mark ('' if unknown). Answers 'U' if nobody had
-- ever leased it, 'S' if it may have been sent, 'R' if it is refused: it is leased, has ended, or is another job.
local id, mark = ARGV[1], ARGV[2]
local answered = '@P@prb:withdrawn:' .. mark
local book = call('HGET', BOOKS, id)
if mark ~= '' and (not book or string.match(book, '^[^|]*') ~= mark) then
    -- The call may be repeated because its answer was lost.
    return call('GET', answered) or 'R'
end
local open = call('LPOS', WAITING, id) or call('ZSCORE', DELAYED, id)
-- The original's stall check puts jobs on the waiting list that are leased.
if not open or call('ZSCORE', LEASES, id) or call('LPOS', ACTIVE, id) then return 'R' end
local read, job = pcall(cjson.decode, call('HGET', JOBS, id))
local used = call('HEXISTS', TRIES, id) == 1 or not read or type(job) ~= 'table' or job.status ~= 'created'
unlist(id)
delete_job(id)
write_sums()
local answer = used and 'S' or 'U'
if mark ~= '' then call('SET', answered, answer, 'PX', '60000') end
return answer
