-- batch_abandon removes a batch that was not written to its end.
-- keys: root
-- args: id
-- with: batch
--
-- Returns "abandoned", or "kept" where there is none that is being written.
local batch = root .. key_batch .. id
if redis.call('HGET', batch, 'state') ~= 'writing' then return 'kept' end
drop(batch)
redis.call('ZREM', root .. key_batches, id)
return 'abandoned'
