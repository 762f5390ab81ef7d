-- enter puts an installation among the live ones of its shard, to be looked at within a time at the latest.
-- keys: live
-- args: now within installation
return redis.call('ZADD', live, 'LT', clock(now) + within, installation)
