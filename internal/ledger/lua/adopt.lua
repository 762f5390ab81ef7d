-- adopt takes over the job of a task in which an older version kept the job itself, before that task is deleted.
-- keys: root
-- args: now id generation class created payload life wait
-- rest: fields
--
-- wait is for how long the job is left alone, should the caller not come as far as to delete the task. Returns "adopted", or "over" where the
-- task is of no use any more.
local record, payload_key = root .. key_job .. id, root .. key_payload .. id
if redis.call('EXISTS', root .. key_gone) == 1 then return 'over' end
now = clock(now)
local have = redis.call('HMGET', record, 'state', 'generation')
local known = tonumber(have[2] or generation)
if known > tonumber(generation) or have[1] == 'succeeded' then return 'over' end
if not have[1] then
  redis.call('HSET', record, 'opened', now, unpack(ARGV, fields))
  redis.call('ZADD', root .. key_jobs, created, id)
elseif known < tonumber(generation) then -- a retry got no further than its task
  redis.call('HSET', record, 'generation', generation, 'opened', now, 'state', 'queued', 'attempts', 0, 'snoozes', 0, 'begun', 0)
  redis.call('HDEL', record, 'next', 'ended', 'started', 'result', 'failure', 'cancel', 'active')
elseif is_ended(have[1]) then
  redis.call('SET', payload_key, payload, 'PX', math.max(1, redis.call('PTTL', record)), 'NX')
  return 'over'
end
redis.call('PEXPIRE', record, life)
redis.call('SET', payload_key, payload, 'PX', life)
redis.call('ZREM', root .. key_old_slots .. class, id)
redis.call('ZREM', root .. key_old_parked .. class, id)
redis.call('ZREM', root .. key_old_waiting, id)
redis.call('ZADD', root .. key_due, now + wait, id)
return 'adopted'
