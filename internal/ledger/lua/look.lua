-- look finds what of an installation may run and has no ticket, at most 100 jobs of each kind, and 20 of those that were woken: there
-- may be very many of them, and others wait while a script runs.
-- keys: root
-- args: now cap judge pause most retention once canceled oldest_interactive oldest_event oldest_batch
--
-- judge is '1' where leases that have run out are judged; pause is for how long they are left alone elsewhere. most is the longest time
-- between two tickets of a job. An oldest is the age in milliseconds of the oldest ticket in the class's queue, zero for an empty one, or ''
-- where none may be taken for lost. Returns {"more", "idle" or "", milliseconds until something is due or -1, number of lapsed leases,
-- tickets...}.
now, cap = clock(now), tonumber(cap)
local answer, more, lapsed = {'', '', -1, 0}, false, 0

local function lapse(id, record, have)
  local class = have[2]
  if have[3] and have[3] == have[4] then
    redis.call('HSET', record, 'state', 'canceled', 'ended', now, 'failure', canceled)
    leave(root, id, class, 'running', 'canceled', move_item(root, have[5], have[6], 'running', 'canceled', now) or kept(class, retention, once))
    return
  end
  lapsed = lapsed + 1
  redis.call('HSET', record, 'state', 'queued')
  redis.call('HINCRBY', record, 'attempts', -1)
  redis.call('HDEL', record, 'active', 'lease')
  redis.call('ZREM', root .. key_due, id)
  move_item(root, have[5], have[6], 'running', 'queued', now)
  issue(root, id, class, now, 0, answer)
end

local function first_due() return tonumber(redis.call('ZRANGE', root .. key_due, 0, 0, 'WITHSCORES')[2]) end

local first = first_due()
local due = first and first <= now and redis.call('ZRANGEBYSCORE', root .. key_due, '-inf', now, 'LIMIT', 0, 100) or {}
for _, id in ipairs(due) do
  local record = root .. key_job .. id
  local have = redis.call('HMGET', record, 'state', 'class', 'cancel', 'generation', 'batch', 'item', 'created', 'looks', 'lease', 'next')
  local state = have[1]
  if state == 'running' and tonumber(have[9] or 0) > now then
    redis.call('ZADD', root .. key_due, have[9], id)
  elseif state == 'running' and judge == '1' then
    lapse(id, record, have)
  elseif state == 'running' then
    redis.call('ZADD', root .. key_due, now + pause, id)
  elseif state == 'retrying' and tonumber(have[10] or 0) > now then
    redis.call('ZADD', root .. key_due, have[10], id)
  elseif state == 'retrying' then
    local looks = redis.call('HINCRBY', record, 'looks', 1)
    redis.call('ZADD', root .. key_due, now + math.min(tonumber(most), 10000 * 2 ^ (looks - 1)), id)
    issue(root, id, have[2], now, 0, answer)
    redis.call('ZREM', root .. key_held .. have[2], id)
  elseif state == 'waiting' then
    redis.call('HSET', record, 'state', 'queued')
    redis.call('HDEL', record, 'next')
    move_item(root, have[5], have[6], 'waiting', 'queued', now)
    stand_in_line(root, id, have[2], have[7])
  elseif state == 'queued' and not redis.call('ZSCORE', root .. key_held .. have[2], id) then
    stand_in_line(root, id, have[2], have[7])
  else
    redis.call('ZREM', root .. key_due, id)
  end
end
more = #due == 100
local changed = #due > 0

local wakes = redis.call('GET', root .. key_wakes)
if wakes and wakes ~= redis.call('GET', root .. key_woken) then
  local ids = redis.call('ZRANGE', root .. key_asleep, 0, 19)
  changed = true
  for _, id in ipairs(ids) do
    local record = root .. key_job .. id
    local have = redis.call('HMGET', record, 'state', 'class', 'created', 'batch', 'item')
    if have[1] == 'waiting' then
      redis.call('HSET', record, 'state', 'queued')
      redis.call('HDEL', record, 'next')
      move_item(root, have[4], have[5], 'waiting', 'queued', now)
      stand_in_line(root, id, have[2], have[3])
    else
      redis.call('ZREM', root .. key_asleep, id)
    end
  end
  if #ids < 20 then redis.call('SET', root .. key_woken, wakes) else more = true end
end

local busy = 0
for class, oldest in pairs({interactive = oldest_interactive, event = oldest_event, batch = oldest_batch}) do
  local held, line = root .. key_held .. class, root .. key_line .. class
  local slots, waiting = redis.call('ZCARD', held), redis.call('ZCARD', line)
  if oldest ~= '' and slots > 0 then
    local before = now - math.max(10000, tonumber(oldest) + 2000)
    local lost = redis.call('ZRANGEBYSCORE', held, '-inf', before, 'LIMIT', 0, 100)
    for _, id in ipairs(lost) do
      local record = root .. key_job .. id
      local state = redis.call('HGET', record, 'state')
      if state == 'queued' then
        local looks = redis.call('HINCRBY', record, 'looks', 1)
        issue(root, id, class, now, math.min(tonumber(most), 10000 * 2 ^ (looks - 1)) - 10000, answer)
      elseif state == 'running' then
        redis.call('ZADD', held, '+inf', id)
      else
        redis.call('ZREM', held, id)
        slots = slots - 1
      end
    end
    more = more or #lost == 100
  end
  if waiting > 0 and (cap <= 0 or slots < cap) then
    promote(root, class, cap, now, answer)
    slots, waiting = redis.call('ZCARD', held), redis.call('ZCARD', line)
  end
  busy = busy + slots + waiting
end

if changed then first = first_due() end
if first then answer[3] = math.max(0, first - now) end
answer[1], answer[4] = more and 'more' or '', lapsed
if busy == 0 and not first then answer[2] = 'idle' end
return answer
