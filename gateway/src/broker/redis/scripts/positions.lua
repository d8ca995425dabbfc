-- Reads the top positions of many streams, at little cost for each.
--
-- KEYS  lease, life, positions
-- ARGV  as in life.lua, position ttl ms
-- Returns {offset or -1, epoch, offset or -1, epoch, ...}; -1 for a channel without a position in this life of the data
-- set, which history.lua creates
if unreadable then
  return unreadable
end
local tops = {}
for i = 3, #KEYS do
  local epoch, offset, known, forget = where(KEYS[i], 'until')
  local at = 2 * i - 5
  tops[at], tops[at + 1] = -1, ''
  if forget == nil then
    tops[at], tops[at + 1] = offset, epoch
    local ttl = tonumber(ARGV[3])
    if offset == 0 then
      ttl = math.min(ttl, 3600000)
    end
    if tonumber(known[3] or 0) < now + ttl then
      ttl = ttl * 1.25
      if type(redis.pcall('PEXPIRE', KEYS[i], string.format('%.0f', ttl))) == 'number' then
        call('HSET', KEYS[i], 'until', string.format('%.0f', now + ttl))
      end
    end
  end
end
return tops
