-- Makes scripts idempotent. A caller numbers its calls of one kind and has one in flight at a time. If the
-- answer of a call was lost, the caller repeats it, and gets the stored answer of the first run. A call that
-- arrives after its successors, over a connection that the caller has given up, does nothing.
local function last_answer(key, seq)
    local last = call('GET', key)
    if not last then return nil end
    local before, answer = string.match(last, '^(%d+) ?(.*)$')
    if before == seq then return answer end
    if tonumber(before) > tonumber(seq) then return '' end
    return nil
end

local function keep_answer(key, seq, answer)
    call('SET', key, seq .. ' ' .. answer, 'PX', '60000')
end

local function words(text)
    local list = {}
    for word in string.gmatch(text, '%S+') do list[#list + 1] = word end
    return list
end
