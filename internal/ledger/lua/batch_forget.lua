-- batch_forget takes a batch from the active ones unless it was put there again meanwhile.
-- keys: active
-- args: member score
--
-- Returns "forgotten", or "kept".
if tonumber(redis.call('ZSCORE', active, member)) ~= tonumber(score) then return 'kept' end
redis.call('ZREM', active, member)
return 'forgotten'
