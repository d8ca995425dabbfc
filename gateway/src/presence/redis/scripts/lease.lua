-- Renews one node's lease, and returns the nodes whose clients count as present.
--
-- The first write frees memory, so that a full Redis allows it and those that follow: the number of nodes is bounded.
--
-- KEYS  leases
-- ARGV  node ('' to only read), lease ms, a node whose lease ends now ('' for none)
-- Returns {1 if the node's lease had not run out, nodes whose lease holds}
local leases, node = KEYS[1], ARGV[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

redis.call('ZREMRANGEBYSCORE', leases, '-inf', now)
if ARGV[3] ~= '' then
  redis.call('ZREM', leases, ARGV[3])
end
local held = 0
if node ~= '' then
  if redis.call('ZSCORE', leases, node) then
    held = 1
  end
  redis.call('ZADD', leases, string.format('%.0f', now + ARGV[2]), node)
end
return {held, redis.call('ZRANGE', leases, 0, -1)}
