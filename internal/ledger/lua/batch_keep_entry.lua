-- batch_keep_entry replaces a repository's entry. A batch whose time is over stays gone.
-- keys: root
-- args: id number entry
--
-- Returns "kept", or "none" where there is no such entry.
local items = root .. key_batch .. id .. ':items'
if redis.call('HEXISTS', items, number) == 0 then return 'none' end
redis.call('HSET', items, number, entry)
return 'kept'
