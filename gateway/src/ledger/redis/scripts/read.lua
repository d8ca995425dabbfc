-- Reads the next news for a reader, for which one node reads at a time, and removes the news that all readers have processed.
--
-- The first write frees memory, so that a full Redis allows it and those that follow.
--
-- ARGV  0, 0, reader, node that reads for it, lease ms, the number up to which the reader had processed news and the one up
--       to which it has now ('' and '' if nothing has changed), the most news to return, all readers
-- Returns {0} if another node reads for it, or {1, number up to which it had processed news before ('' for a new reader), the
-- same number now, news}
local reader, by, lease, from, done, limit = ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7]), ARGV[8]
local known = redis.call('HMGET', meta, 'by:' .. reader, 'until:' .. reader, 'done:' .. reader)
if known[1] and known[1] ~= by and tonumber(known[2]) > now then
  return {0}
end
open_log()
redis.call('ZREM', news, '')
local before = known[3]
local at = tonumber(before) or 0
if done and before == from and known[1] == by then
  at = done
end
redis.call('HSET', meta, 'by:' .. reader, by, 'until:' .. reader, whole(now + lease), 'done:' .. reader, whole(at),
  'last', whole(last))

local slowest = at
for i = 9, #ARGV do
  slowest = math.min(slowest, tonumber(redis.call('HGET', meta, 'done:' .. ARGV[i])) or 0)
end
local over = redis.call('ZRANGEBYSCORE', news, '-inf', whole(slowest))
if #over > 0 then
  for _, entry in ipairs(over) do
    bytes = bytes - #text_of(entry)
  end
  redis.call('ZREMRANGEBYSCORE', news, '-inf', whole(slowest))
  redis.call('HSET', meta, 'bytes', whole(math.max(bytes, 0)))
end
return {1, before or '', whole(at), redis.call('ZRANGEBYSCORE', news, whole(at + 1), '+inf', 'LIMIT', 0, limit)}
