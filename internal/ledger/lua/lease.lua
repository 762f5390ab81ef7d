-- lease gives a shard to whoever has it, or to the caller where nobody has, for a time; with none it is given up.
-- keys: lease
-- args: now name life
now = clock(now)
local ends, holder = string.match(redis.call('GET', lease) or '', '^(%d+) (.*)$')
if holder and holder ~= name and tonumber(ends) > now then return 0 end
if tonumber(life) > 0 then redis.call('SET', lease, now + life .. ' ' .. name) else redis.call('DEL', lease) end
return 1
