-- Has a node be the only one that does something, for a time from each call on, and keeps how far that has got.
--
-- KEYS  turn
-- ARGV  node, lease ms, how long the last lease must have been over ms, how far it has got, kept unused ms
-- Gives {1 or 0: whether it has the turn, how far the last one had got, for how long its turn had been over ms}
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
