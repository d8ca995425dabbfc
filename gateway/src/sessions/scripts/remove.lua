-- Removes a session, if it belongs to this holder.
--
-- KEYS  session
-- ARGV  holder
if redis.call('GETRANGE', KEYS[1], 0, 15) == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
return 1
