-- Makes a node the only one that does something, for a lease from each call on, and stores its progress.
--
-- KEYS  turn
-- ARGV  node, lease ms, how long ago the last lease must have run out ms, progress, how long an unused turn is kept ms
-- Returns {1 or 0: whether the node holds the turn, the last holder's progress, how long ago its turn had ended ms}
local turn = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local known = redis.call('HMGET', turn, 'node', 'until', 'done')
local node, over, done = known[1], tonumber(known[2]) or now, known[3] or ''
if node == ARGV[1] then
  done = ARGV[4]
elseif node and over + ARGV[3] > now then
  return {0, done, 0}
end
redis.call('HSET', turn, 'node', ARGV[1], 'until', string.format('%.0f', now + ARGV[2]), 'done', done)
redis.call('PEXPIRE', turn, ARGV[5])
return {1, done, math.max(0, now - over)}
