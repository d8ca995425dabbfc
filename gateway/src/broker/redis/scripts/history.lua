-- Reads a part of a stream, and its top position. A channel without a position in this life of the data set gets one, so
-- that its epoch holds.
--
-- KEYS  lease, life, position, stream
-- ARGV  as in life.lua, position ttl ms, limit (0: the position only), 'forward' or 'reverse', first id, last id
--       (in the order of reading), bytes after which it is enough
-- Returns {offset, epoch, entries}
if unreadable then
  return unreadable
end
local position, stream, limit = KEYS[3], KEYS[4], tonumber(ARGV[4])
local epoch, offset, known, forget = where(position, 'until')
local lives_until = tonumber(known[3] or 0)
if forget ~= nil then
  -- The first write needs memory: a full Redis takes no new channels.
  begin(call, position, epoch, whole(offset), forget)
  if not forget then
    -- The stream belongs to a life that is over.
    call('UNLINK', stream)
  end
end
-- A client that may read positions can name channels that nobody ever publishes to: those expire soon.
local ttl = tonumber(ARGV[3])
if offset == 0 then
  ttl = math.min(ttl, 3600000)
end
if lives_until < now + ttl then
  ttl = ttl * 1.25
  if type(redis.pcall('PEXPIRE', position, string.format('%.0f', ttl))) == 'number' then
    call('HSET', position, 'until', string.format('%.0f', now + ttl))
  end
end

-- Reads in batches, so that an answer ends soon after it has enough bytes: the sizes of entries are not known beforehand.
local entries, bytes, part_max = {}, 0, 4
local command, step, from = 'XRANGE', 1, ARGV[6]
if ARGV[5] == 'reverse' then
  command, step = 'XREVRANGE', -1
end
while limit > 0 and bytes < tonumber(ARGV[8]) do
  local part = call(command, stream, from, ARGV[7], 'COUNT', math.min(limit, part_max))
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
