-- batch_take decides what of a batch begins now, and makes those jobs: it is the one place that knows roll-outs, stops, pauses and rates.
-- Repositories that wait for another attempt do not hold up others, until there are as many of them as may run at once: then the other
-- side has trouble, and more of the same would not help it. A dry run has no stages and does not stop at failures: it is to show all of
-- them, and the roll-out is that of the batch that is started from it.
-- keys: root
-- args: id now hold most age cap life trim keep
-- rest: jobs
-- with: batch
--
-- hold is why nothing can begin now, '' where it can. most is how many begin at most. age is the greatest in milliseconds at which a batch may
-- go on. life is that of a record whose job has not ended; trim and keep are create's. jobs are number, id, payload, number of fields and the
-- fields of each repository that could begin, in their order. Returns {verdict}: "none" where there is no such batch; "writing" where it is not
-- whole yet; "over" where nothing is left to be done; "stopped" where it has just stopped by itself; else "going". Behind the last two the
-- batch's state; behind "going" how many of jobs were looked at, 'more' where further ones can begin, and the tickets.
local batch = root .. key_batch .. id
now = clock(now)
local have = redis.call('HMGET', batch, 'state', 'resolved', 'total', 'concurrency', 'per_hour', 'canary', 'then', 'stop', 'stage', 'accepted', 'created',
  'tokens', 'filled', 'actor', 'principal', 'dry')
local state = have[1]
if not state then return {'none'} end
if state == 'writing' then return {'writing'} end
local function cancel(why)
  redis.call('HSET', batch, 'state', 'canceled', 'reason', why)
  move(batch, 'pending', 'canceled')
  state = 'canceled'
end
local open = state == 'resolving' or state == 'running' or state == 'paused' or state == 'stopped'
if open and redis.call('EXISTS', root .. key_gone) == 1 then cancel('the app was removed from the workspace') end
if open and tonumber(have[11]) < now - age then cancel('the batch is a week old; what had not begun was canceled') end
local waiting, concurrency = count(batch, 'waiting'), tonumber(have[4])
local pending, busy = count(batch, 'pending'), count(batch, 'queued') + count(batch, 'running')
if pending + busy + waiting == 0 and have[2] == '1' then
  if state == 'running' or state == 'paused' or state == 'stopped' then
    redis.call('HSET', batch, 'state', 'finished')
    redis.call('HDEL', batch, 'reason')
  end
  redis.call('HSETNX', batch, 'ended', now)
  redis.call('HDEL', batch, 'hold')
  return {'over'}
end
if state == 'canceled' and pending + busy + waiting == 0 then
  redis.call('HSETNX', batch, 'ended', now)
  return {'over'}
end
if state == 'running' or state == 'resolving' then
  if hold ~= '' then redis.call('HSET', batch, 'hold', hold) else redis.call('HDEL', batch, 'hold') end
end
if state ~= 'running' or hold ~= '' then return {'going', state, 0, ''} end

local total, stage, dry = tonumber(have[3]), tonumber(have[9] or 0), have[16] == '1'
local limits = {}
for _, share in ipairs(dry and {} or {have[6] or '', have[7] or ''}) do
  if share ~= '' then limits[#limits + 1] = amount(share, total) end
end
limits[#limits + 1] = total
local begun = total - pending
local limit = limits[math.min(stage, #limits - 1) + 1]
local failed = count(batch, 'failed') - tonumber(have[10] or 0)
if have[8] and not dry and failed > 0 and failed >= math.max(1, amount(have[8], limit)) then
  redis.call('HSET', batch, 'state', 'stopped', 'reason', string.format(
    'stopped by itself: %d of the %d repositories of this stage failed, and stop_at_failures is %s; look at the failures, then resume or cancel', failed, limit, have[8]))
  return {'stopped', 'stopped'}
end
while begun >= limit and stage < #limits - 1 and busy + waiting == 0 do
  stage = stage + 1
  limit = limits[stage + 1]
  redis.call('HSET', batch, 'stage', stage)
end
local free = math.min(concurrency - busy - math.max(0, waiting - concurrency), limit - begun, pending, tonumber(most))
local rate, tokens
if have[5] then
  rate = tonumber(have[5]) / 3600000
  local burst = math.max(1, math.floor(rate * 60000))
  tokens = math.min(burst, tonumber(have[12] or burst) + (now - tonumber(have[13] or now)) * rate)
  free = math.min(free, math.floor(tokens))
end

local held = root .. key_held .. 'batch'
local slots, answer, used, taken, at = math.huge, {'going', state, 0, ''}, 0, 0, jobs
if tonumber(cap) > 0 then slots = tonumber(cap) - redis.call('ZCARD', held) end

-- begin makes the job of a repository, or opens another run of it. One that goes on already, or is done, stays as it is.
local function begin(number, job, payload, first, last)
  local record = root .. key_job .. job
  local known = redis.call('HMGET', record, 'state', 'generation')
  if known[1] == 'succeeded' or known[1] and not is_ended(known[1]) then
    local at = batch .. ':' .. (item_states[known[1]] or known[1])
    redis.call('ZADD', at, number, number)
    redis.call('PEXPIRE', at, redis.call('PTTL', batch))
    return
  end
  if known[1] then
    reopen(root, job, known[2], payload, now, life)
  else
    redis.call('HSET', record, 'opened', now, unpack(ARGV, first, last))
    redis.call('PEXPIRE', record, life)
    redis.call('SET', root .. key_payload .. job, payload, 'PX', life)
    redis.call('ZADD', root .. key_jobs, have[11], job)
  end
  redis.call('ZADD', batch .. ':queued', number, number)
  if slots > 0 then
    slots = slots - 1
    issue(root, job, 'batch', now, 0, answer)
  else
    redis.call('ZADD', root .. key_line .. 'batch', have[11], job)
  end
end

while taken < free and ARGV[at] do
  local number, last = ARGV[at], at + 3 + ARGV[at + 3]
  if redis.call('ZREM', batch .. ':pending', number) == 1 then
    begin(number, ARGV[at + 1], ARGV[at + 2], at + 4, last)
    taken = taken + 1
  end
  used, at = used + 1, last + 1
end
if rate then redis.call('HSET', batch, 'tokens', tostring(tokens - taken), 'filled', now) end
if taken > 0 then
  redis.call('PEXPIRE', batch .. ':queued', redis.call('PTTL', batch))
  trim_jobs(root, trim, keep)
end
answer[3] = used
if taken < free and taken < pending then answer[4] = 'more' end
return answer
