-- What the scripts on batches share. batch is the key of a batch's hash; a set for each state lies beside it.

local function count(batch, state) return redis.call('ZCARD', batch .. ':' .. state) end

-- move moves every repository of a state to another.
local function move(batch, from, to)
  if count(batch, from) == 0 then return end
  redis.call('ZUNIONSTORE', batch .. ':' .. to, 2, batch .. ':' .. to, batch .. ':' .. from, 'AGGREGATE', 'MAX')
  redis.call('DEL', batch .. ':' .. from)
  redis.call('PEXPIRE', batch .. ':' .. to, redis.call('PTTL', batch))
  redis.call('HINCRBY', batch, 'changes', 1)
end

-- amount is how many of total a share such as '5' or '10%' is, rounded up.
local function amount(share, total)
  if not share then return 0 end
  local percent = string.match(share, '^(.*)%%$')
  if percent then return math.ceil(tonumber(percent) * total / 100) end
  return math.min(tonumber(share), total)
end

-- write adds the arguments from place on as the repositories from number on, and returns the number after the last one.
local function write(batch, number, place)
  for i = place, #ARGV do
    redis.call('HSET', batch .. ':items', number, ARGV[i])
    redis.call('ZADD', batch .. ':pending', number, number)
    number = number + 1
  end
  local life = redis.call('PTTL', batch)
  redis.call('PEXPIRE', batch .. ':items', life)
  redis.call('PEXPIRE', batch .. ':pending', life)
  return number
end

-- drop removes a batch of which no repository has begun.
local function drop(batch)
  for _, part in ipairs({'', ':spec', ':items', ':pending'}) do redis.call('UNLINK', batch .. part) end
end
