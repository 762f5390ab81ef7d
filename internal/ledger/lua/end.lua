-- end closes an attempt. A job that has ended, or is put off, gives its slot to the next in line.
-- keys: root
-- args: now id generation fence state item_state after uncounted wakes cap life spare
-- rest: fields
--
-- fence is the attempt's, or '' for whichever. after is in how many milliseconds the next attempt may begin. wakes is how often the
-- installation's jobs had been woken when the attempt began. life is for how long the record is kept. spare is how long after its time a
-- retry is issued again. Returns {verdict, tickets...}: "written"; "again" where the same ticket serves for another attempt at once; "over"
-- where the job has ended or the attempt was given up; "canceled" where nothing was written because the job, which goes on, is to stop.
local record = root .. key_job .. id
local have = redis.call('HMGET', record, 'generation', 'state', 'active', 'cancel', 'class', 'created', 'batch', 'item')
local class = have[5]
if have[1] ~= generation or is_ended(have[2]) then return {'over'} end
if fence ~= '' and have[3] ~= fence and state ~= 'succeeded' then return {'over'} end
if not is_ended(state) and have[4] == generation then return {'canceled'} end
now, cap = clock(now), tonumber(cap)
local answer = {'written'}
if state == 'waiting' and (redis.call('GET', root .. key_wakes) or '') ~= wakes then state, item_state = 'queued', 'queued' end
redis.call('HSET', record, 'begun', 0, 'state', state, is_ended(state) and 'ended' or 'next', now + after, unpack(ARGV, fields))
life = move_item(root, have[7], have[8], item_states[have[2]], item_state, now) or life
if uncounted == '1' then
  redis.call('HINCRBY', record, 'attempts', -1)
  redis.call('HINCRBY', record, 'snoozes', 1)
end
if is_ended(state) then
  leave(root, id, class, have[2], state, life)
elseif state == 'queued' then
  redis.call('HDEL', record, 'active', 'lease', 'next')
  redis.call('ZADD', root .. key_held .. class, now, id)
  redis.call('ZREM', root .. key_due, id)
  return {'again'}
else
  local due = now + after
  redis.call('HDEL', record, 'active', 'lease')
  redis.call('ZREM', root .. key_held .. class, id)
  if state == 'waiting' then
    redis.call('ZADD', root .. key_asleep, have[6], id)
  else
    due = due + spare
  end
  redis.call('ZADD', root .. key_due, due, id)
end
promote(root, class, cap, now, answer)
return answer
