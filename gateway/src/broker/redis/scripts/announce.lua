-- Stores a node's description with a lease, and removes those whose lease has run out.
--
-- The first write frees memory, so that a full Redis allows it and those that follow: the number of nodes is bounded.
--
-- KEYS  leases, descriptions
-- ARGV  node ('' to only clean up), lease ms, description
-- Returns all descriptions whose lease holds
local leases, descriptions = KEYS[1], KEYS[2]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local over = redis.call('ZRANGEBYSCORE', leases, '-inf', now)
redis.call('ZREMRANGEBYSCORE', leases, '-inf', now)
for _, node in ipairs(over) do
  redis.call('HDEL', descriptions, node)
end
if ARGV[1] ~= '' then
  redis.call('ZADD', leases, string.format('%.0f', now + ARGV[2]), ARGV[1])
  redis.call('HSET', descriptions, ARGV[1], ARGV[3])
end
return redis.call('HVALS', descriptions)
