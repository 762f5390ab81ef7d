-- settle_all is settle for several installations of a shard, none of which is let go.
-- keys: live
-- args: now least
-- rest: list
--
-- list is installations, each with after. Returns how many were settled.
now = clock(now)
local settled = 0
for i = list, #ARGV, 2 do
  local score = redis.call('ZSCORE', live, ARGV[i])
  if score and tonumber(score) >= now + least then
    redis.call('ZADD', live, now + ARGV[i + 1], ARGV[i])
    settled = settled + 1
  end
end
return settled
