-- Puts down a node's description for a time, and takes away those whose time is over.
--
-- The first write frees memory, so that a full Redis lets it and the rest through: there are only so many nodes.
--
-- KEYS  leases, descriptions
-- ARGV  node ('' to only clean up), lease ms, description
-- Gives all descriptions that hold
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
