-- batch_append adds a page of what a query found, unless it is there.
-- keys: root
-- args: id cursor next at most
-- rest: first
-- with: batch
--
-- cursor is the page's, next that of the one after it ('' where this was the last), to be asked for from at on. most is how many
-- repositories a batch has at most; the repositories follow. Returns {verdict, total}: "added"; "last" where the query is done; "full"
-- where the batch has stopped because there are too many; "over" where the page was there, or the batch resolves no more.
local batch = root .. key_batch .. id
local have = redis.call('HMGET', batch, 'state', 'resolved', 'cursor', 'total')
if have[1] ~= 'resolving' or have[2] == '1' or (have[3] or '') ~= cursor then return {'over', have[4] or '0'} end
local total, life = tonumber(have[4]), redis.call('PTTL', batch)
most = tonumber(most)
for i = first, #ARGV do
  if total >= most then
    redis.call('HSET', batch, 'state', 'stopped', 'reason', 'the query finds more than ' .. most .. ' repositories; cancel the batch and narrow its query', 'total', total)
    return {'full', tostring(total)}
  end
  redis.call('HSET', batch .. ':items', total, ARGV[i])
  redis.call('ZADD', batch .. ':pending', total, total)
  total = total + 1
end
if total > 0 then
  redis.call('PEXPIRE', batch .. ':items', life)
  redis.call('PEXPIRE', batch .. ':pending', life)
end
redis.call('HSET', batch, 'total', total, 'cursor', next, 'next_page', at)
redis.call('HDEL', batch, 'reason', 'hold')
if next ~= '' then return {'added', tostring(total)} end
redis.call('HSET', batch, 'resolved', 1, 'state', 'running')
if total == 0 then redis.call('HSET', batch, 'state', 'finished', 'reason', 'the query finds no repository') end
return {'last', tostring(total)}
