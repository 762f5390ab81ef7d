-- What every script may use. now is in Unix milliseconds, as are all times in records and sets.

local function is_ended(state) return state == 'succeeded' or state == 'failed' or state == 'expired' or state == 'canceled' end

-- clock is Redis's time unless one is given, as tests do.
local function clock(now)
  if now ~= '' then return tonumber(now) end
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- kept is how long the record of a job stays that has ended: an event's at least so long that the event is done once.
local function kept(class, retention, once) return class == 'interactive' and retention or once end

local item_states = {queued = 'queued', running = 'running', retrying = 'waiting', waiting = 'waiting', failed = 'failed', expired = 'failed', canceled = 'canceled'}

-- move_item moves a job to a state in its batch, so that the batch's totals are right at any instant and a job that ends twice counts
-- once. from is where it is believed to be. It returns for how many milliseconds the batch is kept, or nil where the job is part of none.
local function move_item(root, batch, item, from, to, now)
  if not batch or batch == '' then return nil end
  batch = root .. key_batch .. batch
  local life = redis.call('PTTL', batch)
  if life <= 0 then return nil end
  if redis.call('ZADD', batch .. ':' .. to, item, item) == 0 then return life end
  redis.call('PEXPIRE', batch .. ':' .. to, life)
  if not from or redis.call('ZREM', batch .. ':' .. from, item) == 0 then
    for _, state in ipairs({'pending', 'queued', 'running', 'waiting', 'succeeded', 'unchanged', 'failed', 'canceled', 'skipped'}) do
      if state ~= to and redis.call('ZREM', batch .. ':' .. state, item) == 1 then break end
    end
  end
  if to ~= 'queued' and to ~= 'running' and to ~= 'waiting' then
    local ends = redis.call('LPUSH', batch .. ':ends', now)
    if ends == 1 then redis.call('PEXPIRE', batch .. ':ends', life) end
    if ends >= 200 then redis.call('LTRIM', batch .. ':ends', 0, 99) end
    redis.call('HINCRBY', batch, 'changes', 1)
  end
  return life
end

-- batch_canceled reports whether the batch was canceled, so that none of its jobs may begin.
local function batch_canceled(root, batch)
  return batch and redis.call('HGET', root .. key_batch .. batch, 'state') == 'canceled'
end

-- issue writes down that a job's turn has come, and adds its ticket to the answer. wait is for how long it is not taken for lost.
local function issue(root, id, class, now, wait, answer)
  local record = root .. key_job .. id
  redis.call('ZADD', root .. key_held .. class, now + wait, id)
  local serial = redis.call('HINCRBY', record, 'serial', 1)
  local facts = redis.call('HMGET', record, 'generation', 'operation', 'workspace', 'repository', 'actor', 'requester', 'branch', 'ref', 'rule', 'batch', 'created')
  local ticket = {id, class, serial}
  for i = 1, 11 do ticket[3 + i] = facts[i] or '' end
  answer[#answer + 1] = ticket
end

-- promote gives the free slots of a class to the jobs that stand in line, oldest first and at most 100 at a time: what is left follows
-- when the next job ends, or the dispatcher looks. A job that is not queued any more gives its turn to the next one.
local function promote(root, class, cap, now, answer)
  local held, line = root .. key_held .. class, root .. key_line .. class
  if redis.call('EXISTS', line) == 0 then return end
  local free = 100
  if cap > 0 then free = math.min(free, cap - redis.call('ZCARD', held)) end
  for _ = 1, 20 do
    if free <= 0 then return end
    local ids = redis.call('ZRANGE', line, 0, free - 1)
    if #ids == 0 then return end
    for _, id in ipairs(ids) do
      redis.call('ZREM', line, id)
      if redis.call('HGET', root .. key_job .. id, 'state') == 'queued' then
        issue(root, id, class, now, 0, answer)
        free = free - 1
      end
    end
  end
end

-- stand_in_line queues a job that was put off or has ended, and holds no slot.
local function stand_in_line(root, id, class, created)
  redis.call('ZREM', root .. key_asleep, id)
  redis.call('ZREM', root .. key_due, id)
  redis.call('ZADD', root .. key_line .. class, created, id)
end

-- reopen opens a new run of a job that has ended. What it is to do is payload, where it is not kept any more.
local function reopen(root, id, generation, payload, now, life)
  local record, payload_key = root .. key_job .. id, root .. key_payload .. id
  if payload ~= '' then redis.call('SET', payload_key, payload, 'NX') end
  redis.call('HSET', record, 'generation', tonumber(generation) + 1, 'opened', now, 'state', 'queued', 'attempts', 0, 'snoozes', 0, 'begun', 0)
  redis.call('HDEL', record, 'next', 'ended', 'started', 'result', 'failure', 'cancel', 'active', 'lease', 'serial', 'looks')
  redis.call('PEXPIRE', record, life)
  redis.call('PEXPIRE', payload_key, life)
end

-- trim_jobs cuts the index of an installation's jobs back: to those that were created after trim, which is '' to leave it, and to keep.
local function trim_jobs(root, trim, keep)
  if trim == '' then return end
  redis.call('ZREMRANGEBYSCORE', root .. key_jobs, '-inf', '(' .. trim)
  redis.call('ZREMRANGEBYRANK', root .. key_jobs, 0, -1 - tonumber(keep))
end

-- leave takes a job that has ended, from a state, out of every set, keeps its record for a while, and what it was to do too unless it has
-- succeeded.
local function leave(root, id, class, from, state, life)
  local record, payload = root .. key_job .. id, root .. key_payload .. id
  redis.call('HDEL', record, 'next', 'active', 'lease', 'looks', 'cancel')
  redis.call('PEXPIRE', record, life)
  if state == 'succeeded' then redis.call('DEL', payload) else redis.call('PEXPIRE', payload, life) end
  if from == 'running' or from == 'queued' then redis.call('ZREM', root .. key_held .. class, id) end
  if from == 'queued' then redis.call('ZREM', root .. key_line .. class, id) else redis.call('ZREM', root .. key_due, id) end
  if from == 'waiting' then redis.call('ZREM', root .. key_asleep, id) end
end
