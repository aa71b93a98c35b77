local function open_jobs()
    return call('LLEN', WAITING) + call('LLEN', ACTIVE) + call('ZCARD', DELAYED)
end

local function open_bytes()
    return tonumber(call('HGET', META, 'open_bytes') or '0')
end
