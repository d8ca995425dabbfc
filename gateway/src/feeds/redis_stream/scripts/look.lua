-- Renews the lease of the reader, and returns how far the group is behind.
--
-- KEYS  stream, lease
-- ARGV  reader, lease ms, group
-- Returns {0} if another reader has the lease, or {1, last delivered id, records not acknowledged yet (-1: unknown), age of the
-- oldest of them ms (-1: there is none)}
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return {0}
end
redis.call('PEXPIRE', KEYS[2], ARGV[2])

local last, behind, oldest = '0-0', -1, false
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local known = {}
  for at = 1, #group, 2 do
    known[group[at]] = group[at + 1]
  end
  if known['name'] == ARGV[3] then
    last = known['last-delivered-id']
    -- Redis 6 reports no lag, and later releases do not know it once records were deleted.
    if known['lag'] then
      behind = known['lag'] + known['pending']
    end
  end
end
local pending = redis.call('XPENDING', KEYS[1], ARGV[3])
local unread = redis.call('XRANGE', KEYS[1], '(' .. last, '+', 'COUNT', 1)[1]
if behind == -1 and not unread then
  behind = pending[1]
end
oldest = pending[1] > 0 and pending[2] or unread and unread[1]
local age = -1
if oldest then
  local time = redis.call('TIME')
  local since = tonumber(string.match(oldest, '^%d+'))
  age = math.max(0, time[1] * 1000 + math.floor(time[2] / 1000) - since)
end
return {1, last, behind, age}
