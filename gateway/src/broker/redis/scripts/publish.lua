-- Makes one publication: its offset, its place in the stream and its delivery are one step, or none.
--
-- A script keeps what it did before a command was refused. So the first write is one that needs memory: whatever
-- refuses writes refuses that one, and none after it. What rights may refuse besides comes before anything is visible
-- and is taken back. The idempotency key is there before the publication is.
--
-- KEYS  lease, life, position, stream, and the idempotency key if there is one
-- ARGV  as life.lua has it, pub/sub name, stream size (0: no stream), stream ttl ms, position ttl ms, renew ms, record,
--       idempotency ttl ms, and version and version epoch if there are any. The times to live are long enough that
--       they need not be renewed more often than that.
-- Gives {duplicate 0 or 1} or {duplicate, offset, epoch}
local position, stream, once = KEYS[3], KEYS[4], KEYS[5]
local name, size, record, version = ARGV[3], ARGV[4], ARGV[8], ARGV[10]

if once then
  local earlier = call('GET', once)
  if earlier then
    local offset, epoch = string.match(earlier, '^(%d+):(.*)$')
    if offset then
      return {1, tonumber(offset), epoch}
    end
    return {1}
  end
end
if refused then
  return refused
end

if size == '0' then
  if once then
    call('SET', once, '', 'PX', ARGV[9])
  end
  local sent = redis.pcall('PUBLISH', name, ':' .. record)
  if type(sent) == 'table' then
    if once then
      call('DEL', once)
    end
    return sent
  end
  return {0}
end

local known = call('HMGET', position, 'epoch', 'life', 'offset', 'renew')
local epoch, last, renew = known[1], tonumber(known[3]) or 0, tonumber(known[4])
if known[2] ~= life then
  epoch = new_epoch
elseif version then
  -- As texts: a number here has 53 bits.
  local had = call('HMGET', position, 'version', 'version_epoch')
  local newer = not had[1] or #version > #had[1] or (#version == #had[1] and version > had[1])
  if not newer and (ARGV[11] == '' or ARGV[11] == had[2]) then
    return {1, last, epoch}
  end
end
local offset = string.format('%.0f', last + 1)
if once then
  call('SET', once, offset .. ':' .. epoch, 'PX', ARGV[9])
end
local done
if known[2] == life and renew and renew > now and renew <= now + ARGV[7] then
  renew = nil
  done = redis.pcall('HSET', position, 'offset', offset)
else
  renew = string.format('%.0f', now + ARGV[7])
  done = redis.pcall('HSET', position, 'offset', offset, 'epoch', epoch, 'life', life, 'renew', renew)
end
if type(done) == 'number' then
  done = redis.pcall('PUBLISH', name, offset .. ':' .. epoch .. ':' .. record)
  if type(done) == 'table' then
    call('HSET', position, 'offset', string.format('%.0f', last))
  end
end
if type(done) == 'table' then
  if once then
    call('DEL', once)
  end
  return done
end

if version then
  call('HSET', position, 'version', version, 'version_epoch', ARGV[11])
end
if not known[1] then
  -- It belongs to a life that is over.
  call('UNLINK', stream)
end
local added = redis.pcall('XADD', stream, 'NOMKSTREAM', 'MAXLEN', size, offset .. '-0', 'r', record)
if not added then
  renew = renew or '0'
  added = redis.pcall('XADD', stream, offset .. '-0', 'r', record)
end
if type(added) == 'table' then
  if string.find(added.err, 'equal or smaller', 1, true) or string.find(added.err, 'WRONGTYPE', 1, true) then
    -- It is ahead of its position: one of the two was put back alone. What follows begins anew.
    call('UNLINK', position, stream)
  end
  return added
end
if renew then
  call('PEXPIRE', stream, ARGV[5])
  call('PEXPIRE', position, ARGV[6])
end
return {0, last + 1, epoch}
