-- batch_write adds the next repositories to a batch that is being written, and opens it with the last of them. Several callers may write
-- the same plan at the same time.
-- keys: root
-- args: id call digest plan number total
-- rest: first
-- with: batch
--
-- number is the first repository's. Returns {verdict, next}: "made" where the batch is whole now; "writing" with the number of the
-- repository to write next; "there" where another caller has written the rest; "lost" where this plan is not being written any more;
-- "gone" where the app was removed.
local batch = root .. key_batch .. id
local have = redis.call('HMGET', batch, 'digest', 'state', 'plan', 'written', 'call')
if have[1] ~= digest then return {'lost', '0'} end
if have[2] ~= 'writing' then return {have[5] == call and 'made' or 'there', '0'} end
if have[3] ~= plan then return {'lost', '0'} end
if redis.call('EXISTS', root .. key_gone) == 1 then return {'gone', '0'} end
if have[4] ~= number then return {'writing', have[4]} end
local written = write(batch, tonumber(number), first)
if written < tonumber(total) then
  redis.call('HSET', batch, 'written', written)
  return {'writing', tostring(written)}
end
redis.call('HSET', batch, 'state', 'running', 'resolved', 1, 'call', call)
redis.call('HDEL', batch, 'plan', 'written')
return {'made', tostring(written)}
