-- retry opens a new run of a job that has ended without success. The job stands in line behind older ones.
-- keys: root
-- args: now id generation payload cap life
--
-- generation is the run that has ended, or '' for whichever. payload is what the job was to do where it is not kept any more, or ''. Returns {verdict, ...}: "unknown"; "meanwhile" where another run is there; the
-- state where it cannot be retried; "forgotten" where it is not kept what the job was to do; "opened", with tickets.
local record, payload_key = root .. key_job .. id, root .. key_payload .. id
local have = redis.call('HMGET', record, 'state', 'generation', 'class', 'created', 'batch', 'item')
local state = have[1]
if not state then return {'unknown'} end
if generation ~= '' and have[2] ~= generation then return {'meanwhile'} end
if state == 'succeeded' or not is_ended(state) then return {state} end
if redis.call('EXISTS', payload_key) == 0 then
  if payload == '' then return {'forgotten'} end
  redis.call('SET', payload_key, payload)
end
now = clock(now)
redis.call('HSET', record, 'generation', tonumber(have[2]) + 1, 'opened', now, 'state', 'queued', 'attempts', 0, 'snoozes', 0, 'begun', 0)
redis.call('HDEL', record, 'next', 'ended', 'started', 'result', 'failure', 'cancel', 'active', 'lease', 'serial', 'looks')
redis.call('PEXPIRE', record, life)
redis.call('PEXPIRE', payload_key, life)
move_item(root, have[5], have[6], item_states[state], 'queued', now)
stand_in_line(root, id, have[3], have[4])
local answer = {'opened'}
promote(root, have[3], tonumber(cap), now, answer)
return answer
