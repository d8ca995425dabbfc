-- Ends the lease, if this reader has it.
--
-- KEYS  lease
-- ARGV  reader
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
