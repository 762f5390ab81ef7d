-- create makes a job's record unless there is one, and gives the job a slot or a place in line. Of jobs with the same coalesce key that
-- have not begun only the one of the newest event is left.
-- keys: root
-- args: now id digest class created payload batch item cap life retention coalesce happened replaced trim keep
-- rest: fields
--
-- replaced is the failure of a job that is replaced. trim is the oldest creation that stays in the index, or '' to keep it as it is, and
-- keep how many stay. Returns {verdict, ...}: "there" with digest, state, generation and serial; "gone" where the app was removed; "slot", where
-- the first ticket is to be issued; "line", where the job's turn comes later; "replaced", where a newer event's job was there before.
local record, payload_key = root .. key_job .. id, root .. key_payload .. id
local have = redis.call('HMGET', record, 'digest', 'state', 'generation', 'serial')
if have[1] then return {'there', have[1], have[2], have[3], have[4] or '0'} end
if redis.call('EXISTS', root .. key_gone) == 1 then return {'gone'} end
now, cap = clock(now), tonumber(cap)
redis.call('HSET', record, 'opened', now, unpack(ARGV, fields))
redis.call('PEXPIRE', record, life)
redis.call('SET', payload_key, payload, 'PX', life)
redis.call('ZADD', root .. key_jobs, created, id)
move_item(root, batch, item, 'pending', 'queued', now)
trim_jobs(root, trim, keep)
local function replace(old, from)
  local other = root .. key_job .. old
  redis.call('HSET', other, 'state', 'canceled', 'ended', now, 'failure', replaced)
  leave(root, old, class, from, 'canceled', retention)
end
if coalesce ~= '' then
  local newest = redis.call('GET', root .. key_newest .. coalesce)
  local time, other = string.match(newest or '', '^(%d+) (.+)$')
  if other then
    local state = redis.call('HGET', root .. key_job .. other, 'state')
    if state and state ~= 'running' and not is_ended(state) then
      if tonumber(time) > tonumber(happened) then
        replace(id, 'queued')
        return {'replaced'}
      end
      replace(other, state)
    end
  end
  redis.call('SET', root .. key_newest .. coalesce, happened .. ' ' .. id, 'PX', retention)
end
local held = root .. key_held .. class
if cap > 0 and redis.call('ZCARD', held) >= cap then
  redis.call('ZADD', root .. key_line .. class, created, id)
  return {'line'}
end
redis.call('ZADD', held, now, id)
return {'slot'}
