-- retry opens a new run of a job that has ended without success. The job stands in line behind older ones.
-- keys: root
-- args: now id cap life
--
-- Returns {verdict, ...}: "unknown"; the state where it cannot be retried; "forgotten" where it is not kept what the job was to do; "opened",
-- with tickets.
local record = root .. key_job .. id
local have = redis.call('HMGET', record, 'state', 'generation', 'class', 'created', 'batch', 'item')
local state = have[1]
if not state then return {'unknown'} end
if state == 'succeeded' or not is_ended(state) then return {state} end
if redis.call('EXISTS', root .. key_payload .. id) == 0 then return {'forgotten'} end
now = clock(now)
reopen(root, id, have[2], '', now, life)
move_item(root, have[5], have[6], item_states[state], 'queued', now)
stand_in_line(root, id, have[3], have[4])
local answer = {'opened'}
promote(root, have[3], tonumber(cap), now, answer)
return answer
