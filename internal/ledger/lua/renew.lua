-- renew keeps an attempt's lease alive, also one that has run out and was not judged yet.
-- keys: root
-- args: now id fence lease
--
-- Returns "held", "cancel" where the job is to stop, or "lost" where the attempt has been given up.
local record = root .. key_job .. id
local have = redis.call('HMGET', record, 'active', 'state', 'cancel', 'generation')
if have[1] ~= fence or have[2] ~= 'running' then return 'lost' end
now = clock(now)
redis.call('HSET', record, 'lease', now + lease)
redis.call('ZADD', root .. key_due, now + lease, id)
return have[3] and have[3] == have[4] and 'cancel' or 'held'
