-- batch_put_off notes why a batch's query cannot go on now.
-- keys: root
-- args: id at why
--
-- at is when to ask again. Returns "waits"; "stopped" where at is '' and the batch has stopped; "over" where it resolves no more.
local batch = root .. key_batch .. id
if redis.call('HGET', batch, 'state') ~= 'resolving' then return 'over' end
redis.call('HSET', batch, 'reason', why)
if at == '' then
  redis.call('HSET', batch, 'state', 'stopped')
  return 'stopped'
end
redis.call('HSET', batch, 'next_page', at)
return 'waits'
