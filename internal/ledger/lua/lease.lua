-- lease gives a shard to whoever has it, or to the caller where nobody has, for a time; with none it is given up.
-- keys: lease
-- args: name life
local holder = redis.call('GET', lease)
if holder and holder ~= name then return 0 end
if tonumber(life) > 0 then redis.call('SET', lease, name, 'PX', life) else redis.call('DEL', lease) end
return 1
