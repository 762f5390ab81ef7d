-- settle writes down when an installation that was claimed is to be looked at again, or lets it go where after is negative. least is in how
-- many milliseconds the claim would have brought it back, less what the look took: where its time is earlier than that, somebody has asked
-- for a look meanwhile, and that stands.
-- keys: live
-- args: now installation after least
now = clock(now)
local score = redis.call('ZSCORE', live, installation)
if not score or tonumber(score) < now + least then return 0 end
if tonumber(after) < 0 then return redis.call('ZREM', live, installation) end
return redis.call('ZADD', live, now + after, installation)
