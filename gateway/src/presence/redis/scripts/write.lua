-- Writes what changed in one channel on one node.
--
-- Where something is added, the first write is one that needs memory: a full Redis takes nobody new, and lets everybody
-- go.
--
-- KEYS  nodes of the channel, members of this node, users of this node
-- ARGV  node, ttl ms, 1 to begin from nothing, then four numbers: members set, members removed, users set, users
--       removed; then the members set as id and record, and the others as they are
local nodes, members, users = KEYS[1], KEYS[2], KEYS[3]
local node, ttl = ARGV[1], ARGV[2]

if ARGV[4] ~= '0' or ARGV[6] ~= '0' then
  redis.call('SADD', nodes, node)
end
if ARGV[3] == '1' then
  redis.call('DEL', members, users)
end
local at = 8
local function apply(command, key, count)
  if count > 0 then
    redis.call(command, key, unpack(ARGV, at, at + count - 1))
    at = at + count
  end
end
apply('HSET', members, 2 * ARGV[4])
apply('HDEL', members, 1 * ARGV[5])
apply('SADD', users, 1 * ARGV[6])
apply('SREM', users, 1 * ARGV[7])

if redis.call('HLEN', members) == 0 then
  redis.call('DEL', members, users)
  redis.call('SREM', nodes, node)
else
  redis.call('SADD', nodes, node)
  redis.call('PEXPIRE', nodes, ttl)
  redis.call('PEXPIRE', members, ttl)
  redis.call('PEXPIRE', users, ttl)
end
return 1
