-- Makes one publication: its offset, its place in the stream and its delivery are one step.
--
-- KEYS  position, stream, pub/sub name, and the idempotency key if there is one
-- ARGV  epoch to begin with, id of this Redis run, stream size (0: no stream), stream ttl ms, position ttl ms,
--       record, idempotency ttl ms
-- Gives {duplicate 0 or 1} or {duplicate, offset, epoch}
local position, stream, name, once = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local new_epoch, run, size, record = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[6]

if once then
  local earlier = redis.call('GET', once)
  if earlier then
    local offset, epoch = string.match(earlier, '^(%d+):(.*)$')
    if offset then
      return {1, tonumber(offset), epoch}
    end
    return {1}
  end
end

if size == 0 then
  redis.call('PUBLISH', name, ':' .. record)
  if once then
    redis.call('SET', once, '', 'PX', ARGV[7])
  end
  return {0}
end

-- A Redis that was started again may have lost the last offsets it gave: they must not be given twice under one
-- epoch, so each run of Redis has its own. A stream without a position belongs to a life that is over.
local known = redis.call('HMGET', position, 'epoch', 'run')
local epoch = known[1]
if not epoch then
  redis.call('DEL', stream)
end
if not epoch or known[2] ~= run then
  epoch = new_epoch
  redis.call('HSET', position, 'epoch', epoch, 'run', run)
end

local offset = string.format('%.0f', redis.call('HINCRBY', position, 'offset', 1))
redis.call('XADD', stream, 'MAXLEN', size, offset .. '-0', 'r', record)
redis.call('PEXPIRE', stream, ARGV[4])
redis.call('PEXPIRE', position, ARGV[5])
redis.call('PUBLISH', name, offset .. ':' .. epoch .. ':' .. record)
if once then
  redis.call('SET', once, offset .. ':' .. epoch, 'PX', ARGV[7])
end
return {0, tonumber(offset), epoch}
