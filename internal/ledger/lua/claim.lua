-- claim gives the installations of a shard whose time has come to the caller, who looks at them now. Should he not, they come again after
-- a pause.
-- keys: live
-- args: now pause most
now = clock(now)
local installations = redis.call('ZRANGEBYSCORE', live, '-inf', now, 'LIMIT', 0, most)
for _, installation in ipairs(installations) do redis.call('ZADD', live, now + pause, installation) end
return installations
