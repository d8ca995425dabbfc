-- Reads a part of a stream and where it ends. A channel without a position gets one, so that its epoch holds.
--
-- KEYS  position, stream
-- ARGV  epoch to begin with, id of this Redis run, position ttl ms, limit (0: the position only),
--       'forward' or 'reverse', first id, last id (in the order of reading), bytes after which it is enough
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

-- In parts, so that an answer ends soon after it has the bytes that it may: nobody knows beforehand what is how long.
local entries, bytes, part_max = {}, 0, 4
local command, step, from = 'XRANGE', 1, ARGV[6]
if ARGV[5] == 'reverse' then
  command, step = 'XREVRANGE', -1
end
while limit > 0 and bytes < tonumber(ARGV[8]) do
  local part = redis.call(command, stream, from, ARGV[7], 'COUNT', math.min(limit, part_max))
  for _, entry in ipairs(part) do
    entries[#entries + 1] = entry
    bytes = bytes + #entry[2][2]
  end
  if #part < math.min(limit, part_max) then
    break
  end
  limit = limit - #part
  from = string.format('%.0f', tonumber(string.match(part[#part][1], '^%d+')) + step)
  part_max = math.min(part_max * 2, 32)
end
return {offset, epoch, entries}
