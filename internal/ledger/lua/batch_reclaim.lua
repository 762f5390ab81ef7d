-- batch_reclaim lets repositories have their turn again that a driver of an older version took without making their jobs.
-- keys: root
-- args: id
-- rest: jobs
--
-- jobs are number and job of each repository. Returns "reclaimed", or "none".
local batch, count = root .. key_batch .. id, 0
local to = redis.call('HGET', batch, 'state') == 'canceled' and ':canceled' or ':pending'
for i = jobs, #ARGV, 2 do
  local state = redis.call('HGET', root .. key_job .. ARGV[i + 1], 'state')
  if (not state or is_ended(state)) and redis.call('ZREM', batch .. ':queued', ARGV[i]) == 1 then
    redis.call('ZADD', batch .. to, ARGV[i], ARGV[i])
    count = count + 1
  end
end
if count == 0 then return 'none' end
redis.call('PEXPIRE', batch .. to, redis.call('PTTL', batch))
redis.call('HINCRBY', batch, 'changes', 1)
return 'reclaimed'
