-- Reads the clients in a channel, or the numbers of clients and users.
--
-- KEYS  nodes of the channel
-- ARGV  'clients' or 'stats', 1 to take a node on neither list as live, number of live nodes, the live nodes, and
--       the dead nodes: their lease has run out, and no node takes a lease under the same name again
-- Returns {1, {records of each node}} or {1, {clients, users}}; {0, {nodes}} if some are on neither list
local channel, what = KEYS[1], ARGV[1]

local live, dead = {}, {}
for i = 4, #ARGV do
  if i - 3 <= tonumber(ARGV[3]) then
    live[ARGV[i]] = true
  else
    dead[ARGV[i]] = true
  end
end
local here, unknown = {}, {}
for _, node in ipairs(redis.call('SMEMBERS', channel)) do
  if dead[node] then
    redis.call('UNLINK', channel .. ':' .. node, channel .. ':' .. node .. ':users')
    redis.call('SREM', channel, node)
  elseif live[node] or ARGV[2] == '1' then
    here[#here + 1] = channel .. ':' .. node
  else
    unknown[#unknown + 1] = node
  end
end
if #unknown > 0 then
  return {0, unknown}
end

if what == 'clients' then
  local records = {}
  for i, members in ipairs(here) do
    records[i] = redis.call('HVALS', members)
  end
  return {1, records}
end

local clients, users = 0, {}
for i, members in ipairs(here) do
  clients = clients + redis.call('HLEN', members)
  users[i] = members .. ':users'
end
if #users == 0 then
  return {1, {0, 0}}
elseif #users == 1 then
  return {1, {clients, redis.call('SCARD', users[1])}}
end
return {1, {clients, #redis.call('SUNION', unpack(users))}}
