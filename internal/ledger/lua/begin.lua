-- begin opens an attempt for whoever comes with a ticket.
-- keys: root
-- args: now id generation attempt cap lease retention canceled
--
-- attempt is random and the same where the caller asks again. canceled is the failure of a job whose batch was canceled. Returns
-- {verdict, ...}: "run" with attempts, attempts that began without an end, snoozes, when the run was opened, when it was due, fence, wakes and
-- payload; "early" with milliseconds to wait; "unknown" where there is no record; "over" where nothing is to be done for this ticket;
-- "line" where the job's turn comes later; "canceled". Where a slot became free, tickets follow.
local record = root .. key_job .. id
local have = redis.call('HMGET', record, 'generation', 'state', 'class', 'next', 'active', 'run', 'opened', 'created', 'snoozes', 'attempts', 'begun', 'batch', 'item', 'looks')
local state, class, due, active = have[2], have[3], have[4], have[5]
if not have[1] then return {'unknown'} end
now, cap = clock(now), tonumber(cap)
if is_ended(state) and redis.call('ZREM', root .. key_held .. class, id) == 1 then
  local answer = {'over'}
  promote(root, class, cap, now, answer)
  return answer
end
if have[1] ~= generation or is_ended(state) or state == 'waiting' then return {'over'} end
local function opened(attempts, begun, fence)
  local kept = redis.call('MGET', root .. key_wakes, root .. key_payload .. id)
  return {'run', attempts, begun, have[9] or '0', have[7], due or have[7], fence, kept[1] or '', kept[2] or ''}
end
if state == 'running' then
  if active == have[6] .. '-' .. attempt then return opened(have[10], have[11], active) end
  return {'over'}
end
if state == 'retrying' and due and tonumber(due) > now then return {'early', tonumber(due) - now} end
if batch_canceled(root, have[12]) then
  redis.call('HSET', record, 'state', 'canceled', 'ended', now, 'failure', canceled)
  leave(root, id, class, state, 'canceled', move_item(root, have[12], have[13], item_states[state], 'canceled', now) or retention)
  local answer = {'canceled'}
  promote(root, class, cap, now, answer)
  return answer
end
local held = root .. key_held .. class
local slot = redis.call('ZSCORE', held, id)
if cap > 0 and not slot and redis.call('ZCARD', held) >= cap then
  redis.call('HSET', record, 'state', 'queued')
  redis.call('HDEL', record, 'next')
  move_item(root, have[12], have[13], item_states[state], 'queued', now)
  stand_in_line(root, id, class, have[8])
  return {'line'}
end
local run = tonumber(have[6] or 0) + 1
local attempts, begun, fence = tonumber(have[10] or 0) + 1, tonumber(have[11] or 0) + 1, run .. '-' .. attempt
redis.call('HSET', record, 'state', 'running', 'started', now, 'active', fence, 'run', run, 'attempts', attempts, 'begun', begun, 'lease', now + lease)
if due or have[14] then redis.call('HDEL', record, 'next', 'looks') end
redis.call('ZADD', held, '+inf', id)
if not slot then redis.call('ZREM', root .. key_line .. class, id) end
redis.call('ZADD', root .. key_due, now + lease, id)
move_item(root, have[12], have[13], item_states[state], 'running', now)
return opened(attempts, begun, fence)
