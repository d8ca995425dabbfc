-- Makes a channel begin a new epoch at its next access, if its epoch is still this one. Frees memory, so that a full
-- Redis does not refuse it.
--
-- KEYS  position
-- ARGV  the epoch to leave
local known = redis.call('HMGET', KEYS[1], 'epoch', 'in_life')
if known[1] == ARGV[1] and known[2] then
  local field = known[2] .. known[1]
  local offset = redis.call('HGET', KEYS[1], field)
  redis.call('HDEL', KEYS[1], 'in_life', field)
  if offset then
    redis.call('HSET', KEYS[1], 'offset', offset)
  end
end
return 1
