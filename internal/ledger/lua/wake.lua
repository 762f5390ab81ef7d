-- wake asks for the installation's jobs that wait for a token to be queued. look does it, page by page.
-- keys: root
--
-- Returns how many wait.
redis.call('INCR', root .. key_wakes)
return redis.call('ZCARD', root .. key_asleep)
