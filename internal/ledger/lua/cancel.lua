-- cancel ends a job that does not run, and asks a running one to stop.
-- keys: root
-- args: now id leave_running failure cap retention once
--
-- Returns {verdict, ...}: "unknown"; "left" where a running one is left alone; "asked" with the generation; "ended", with tickets; or how it
-- had ended before.
local record = root .. key_job .. id
local have = redis.call('HMGET', record, 'state', 'generation', 'class', 'batch', 'item')
local state, class = have[1], have[3]
if not state then return {'unknown'} end
if is_ended(state) then return {state} end
if state == 'running' and leave_running == '1' then return {'left'} end
now = clock(now)
if state == 'running' then
  redis.call('HSET', record, 'cancel', have[2])
  return {'asked', have[2]}
end
redis.call('HSET', record, 'state', 'canceled', 'ended', now, 'failure', failure)
leave(root, id, class, state, 'canceled', move_item(root, have[4], have[5], item_states[state], 'canceled', now) or kept(class, retention, once))
local answer = {'ended'}
promote(root, class, tonumber(cap), now, answer)
return answer
