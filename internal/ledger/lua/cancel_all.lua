-- cancel_all ends the given jobs that do not run, and asks running ones to stop. No job takes their place: the app was removed.
-- keys: root
-- args: now failure retention
-- rest: ids
--
-- Returns {how many had not ended and were not asked before, then id and generation of each that runs}.
now = clock(now)
local answer = {0}
for i = ids, #ARGV do
  local id = ARGV[i]
  local record = root .. key_job .. id
  local have = redis.call('HMGET', record, 'state', 'generation', 'class', 'batch', 'item', 'cancel')
  local state = have[1]
  if state == 'running' and have[6] ~= have[2] then
    redis.call('HSET', record, 'cancel', have[2])
    answer[1] = answer[1] + 1
    answer[#answer + 1] = id
    answer[#answer + 1] = have[2]
  elseif state and state ~= 'running' and not is_ended(state) then
    redis.call('HSET', record, 'state', 'canceled', 'ended', now, 'failure', failure)
    leave(root, id, have[3], state, 'canceled', move_item(root, have[4], have[5], item_states[state], 'canceled', now) or retention)
    answer[1] = answer[1] + 1
  end
end
return answer
