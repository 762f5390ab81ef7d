-- batch_cancel_taken ends repositories of a canceled batch that were taken and have no job that would run.
-- keys: root
-- args: id
-- rest: numbers
--
-- Returns "canceled", or "going" where the batch is not canceled.
local batch = root .. key_batch .. id
if redis.call('HGET', batch, 'state') ~= 'canceled' then return 'going' end
for i = numbers, #ARGV do
  if redis.call('ZREM', batch .. ':queued', ARGV[i]) == 1 then redis.call('ZADD', batch .. ':canceled', ARGV[i], ARGV[i]) end
end
redis.call('PEXPIRE', batch .. ':canceled', redis.call('PTTL', batch))
redis.call('HINCRBY', batch, 'changes', 1)
return 'canceled'
