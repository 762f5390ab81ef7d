-- batch_create writes a batch down unless it is there: whole, or with the first of its repositories if there are more than one script
-- should write. Then its state is writing, and nothing is taken from it until batch_write has written the last of them.
-- keys: root
-- args: id call digest created life spec plan fields
-- rest: first
-- with: batch
--
-- call is random: go-redis sends a script again whose answer is late, and the second sending finds its own work. plan is the plan's digest, or '' if all repositories are given. fields is how many of the rest are names and values of the batch's
-- hash; the repositories follow. A plan that is begun again goes on where it broke off, unless it is another one by now: a dry run may
-- have changed. Returns {verdict, next}: "made"; "writing" with the number of the repository to write next; "there"; "another" where the
-- batch that is there was asked for otherwise; "gone" where the app was removed.
local batch = root .. key_batch .. id
local have = redis.call('HMGET', batch, 'digest', 'state', 'plan', 'written', 'call')
if have[1] and have[1] ~= digest then return {'another', '0'} end
if have[1] and have[2] ~= 'writing' then return {have[5] == call and 'made' or 'there', '0'} end
if redis.call('EXISTS', root .. key_gone) == 1 then return {'gone', '0'} end
if have[1] and have[3] == plan then return {'writing', have[4]} end
if have[1] then drop(batch) end
redis.call('HSET', batch, 'call', call, unpack(ARGV, first, first + fields - 1))
redis.call('PEXPIRE', batch, life)
redis.call('SET', batch .. ':spec', spec, 'PX', life)
local written = tostring(write(batch, 0, first + fields))
redis.call('ZADD', root .. key_batches, created, id)
redis.call('ZREMRANGEBYSCORE', root .. key_batches, '-inf', created - life)
if plan == '' then return {'made', written} end
redis.call('HSET', batch, 'state', 'writing', 'resolved', 0, 'plan', plan, 'written', written)
return {'writing', written}
