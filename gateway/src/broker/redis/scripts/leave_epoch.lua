-- Has a channel begin a new epoch as soon as it is touched, if its epoch is still this one. Frees memory, so that a full
-- Redis does not refuse it.
--
-- KEYS  position
-- ARGV  the epoch to leave
if redis.call('HGET', KEYS[1], 'epoch') == ARGV[1] then
  redis.call('HDEL', KEYS[1], 'life')
end
return 1
