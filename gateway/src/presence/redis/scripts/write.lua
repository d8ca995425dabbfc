-- Writes the changes of one channel on one node.
--
-- If something is added, the first write needs memory: a full Redis accepts no new clients. Removals are made all the same,
-- even if the additions are refused.
--
-- KEYS  nodes of the channel, members of this node, users of this node
-- ARGV  node, ttl ms, 1 to write from scratch, then four numbers: members set, members removed, users set, users
--       removed; then the members set as id and record, and the others as they are
local nodes, members, users = KEYS[1], KEYS[2], KEYS[3]
local node, ttl = ARGV[1], ARGV[2]

local whole, set, removed, users_set, users_removed = ARGV[3] == '1', ARGV[4] + 0, ARGV[5] + 0, ARGV[6] + 0, ARGV[7] + 0
local set_at = 8
local removed_at = set_at + 2 * set
local users_set_at = removed_at + removed
local users_removed_at = users_set_at + users_set

local function apply(command, key, at, count)
  if count > 0 then
    redis.call(command, key, unpack(ARGV, at, at + count - 1))
  end
end
-- Removes from `there` all that `count` arguments from `at` on, `step` apart, do not name.
local function keep(there, command, key, at, count, step)
  local named = {}
  for place = at, at + (count - 1) * step, step do
    named[ARGV[place]] = true
  end
  for _, one in ipairs(there) do
    if not named[one] then
      redis.call(command, key, one)
    end
  end
end

local refused
if set + users_set > 0 then
  local added = redis.pcall('SADD', nodes, node)
  refused = type(added) == 'table' and added
end
if not refused then
  if whole then
    redis.call('DEL', members, users)
  end
  apply('HSET', members, set_at, 2 * set)
  apply('SADD', users, users_set_at, users_set)
elseif whole then
  keep(redis.call('HKEYS', members), 'HDEL', members, set_at, set, 2)
  keep(redis.call('SMEMBERS', users), 'SREM', users, users_set_at, users_set, 1)
end
apply('HDEL', members, removed_at, removed)
apply('SREM', users, users_removed_at, users_removed)

if redis.call('HLEN', members) == 0 then
  redis.call('DEL', members, users)
  redis.call('SREM', nodes, node)
elseif not refused then
  redis.call('SADD', nodes, node)
  redis.call('PEXPIRE', nodes, ttl)
  redis.call('PEXPIRE', members, ttl)
  redis.call('PEXPIRE', users, ttl)
end
return refused or 1
