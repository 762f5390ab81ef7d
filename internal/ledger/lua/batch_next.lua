-- batch_next reads a batch, and its first repositories that have no job yet.
-- keys: root
-- args: id most
--
-- Returns {"none"} where there is no such batch; or {"batch", its fields and their values, number and entry of each repository}.
local batch = root .. key_batch .. id
local fields, entries = redis.call('HGETALL', batch), {}
if #fields == 0 then return {'none'} end
local numbers = redis.call('ZRANGE', batch .. ':pending', 0, most - 1)
if #numbers > 0 then
  local found = redis.call('HMGET', batch .. ':items', unpack(numbers))
  for i, number in ipairs(numbers) do
    entries[#entries + 1] = number
    entries[#entries + 1] = found[i] or ''
  end
end
return {'batch', fields, entries}
