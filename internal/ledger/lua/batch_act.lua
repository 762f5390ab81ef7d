-- batch_act does what a caller asks of a batch.
-- keys: root
-- args: id act
-- with: batch
--
-- act is cancel, end (the same of a removed app), pause, resume or retry. A batch that is being written is not there yet, and one of a
-- removed app never will be. Returns {verdict, state}, the state that the batch was in: "none"; "done"; or "refused".
local batch = root .. key_batch .. id
local have = redis.call('HMGET', batch, 'state', 'resolved', 'hold')
local state = have[1]
if not state then return {'none', ''} end
if state == 'writing' then
  if act == 'end' then
    drop(batch)
    redis.call('ZREM', root .. key_batches, id)
  end
  return {'none', ''}
end
local over = state == 'canceled' or state == 'finished'
local function go()
  redis.call('HSET', batch, 'state', have[2] == '1' and 'running' or 'resolving')
  redis.call('HDEL', batch, 'reason', 'ended', 'hold')
end
if act == 'cancel' or act == 'end' then
  if over then return {'refused', state} end
  redis.call('HSET', batch, 'state', 'canceled', 'reason', act == 'end' and 'the app was removed from the workspace' or 'canceled by a caller')
  redis.call('HDEL', batch, 'hold')
  move(batch, 'pending', 'canceled')
elseif act == 'pause' then
  if state ~= 'running' and state ~= 'resolving' then return {'refused', state} end
  redis.call('HSET', batch, 'state', 'paused', 'reason', 'paused by a caller')
elseif act == 'resume' then
  if state ~= 'paused' and state ~= 'stopped' and not (have[3] and not over) then return {'refused', state} end
  redis.call('HSET', batch, 'accepted', count(batch, 'failed'))
  go()
elseif act == 'retry' then
  if state == 'canceled' or count(batch, 'failed') == 0 then return {'refused', state} end
  move(batch, 'failed', 'pending')
  redis.call('HSET', batch, 'accepted', 0)
  if state ~= 'paused' then go() end
end
return {'done', state}
