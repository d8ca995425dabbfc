-- Reads a part of a stream and where it ends. A channel without a position gets one, so that its epoch holds.
--
-- KEYS  position, stream
-- ARGV  epoch to begin with, id of this Redis run, position ttl ms, limit (0: the position only),
--       'forward' or 'reverse', first id, last id (in the order of reading)
-- Gives {offset, epoch, entries}
local position, stream = KEYS[1], KEYS[2]
local new_epoch, run, limit = ARGV[1], ARGV[2], tonumber(ARGV[4])

local known = redis.call('HMGET', position, 'epoch', 'run', 'offset')
local epoch, offset = known[1], tonumber(known[3] or 0)
if not epoch then
  redis.call('DEL', stream)
end
if not epoch or known[2] ~= run then
  epoch = new_epoch
  redis.call('HSET', position, 'epoch', epoch, 'run', run)
end
-- Anyone who may ask can name channels that nobody ever publishes to: they are not remembered for long.
local ttl = tonumber(ARGV[3])
if offset == 0 then
  ttl = math.min(ttl, 3600000)
end
redis.call('PEXPIRE', position, string.format('%.0f', ttl))

local entries = {}
if limit > 0 then
  local command = ARGV[5] == 'reverse' and 'XREVRANGE' or 'XRANGE'
  entries = redis.call(command, stream, ARGV[6], ARGV[7], 'COUNT', limit)
end
return {offset, epoch, entries}
