
-- The common part of scripts for channels that keep state by key, behind life.lua.
--
-- A key's value in the state is `offset:score:version:n:m:`, the n bytes of the version's epoch, the m bytes of the
-- record of its removal (0 if removals are not published), and its record. The order holds every key with its score (0 if
-- keys are not ordered), the expiry the keys that expire. The field without a name in the state is the newest offset, in
-- case the position is lost.
--
-- KEYS  lease, life, position, stream, state, order, expiry
-- ARGV  as in life.lua, pub/sub name, stream size (0: no stream), stream ttl ms, position ttl ms (0: it does not expire)
local position, stream, state, order, expiry = KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local name, size = ARGV[3], ARGV[4]
local streamed = size ~= '0'
local epoch, last, known, forget = where(position)
local failed
if forget == false then
  last = tonumber(call('HGET', state, '') or 0)
end

-- Splits a value into offset, score, version, its epoch, the record of its removal and its record.
local function parts(value)
  local offset, score, version, n, m, from = string.match(value, '^(%d+):(-?%d+):(%d+):(%d+):(%d+):()')
  n, m = tonumber(n), tonumber(m)
  return offset, score, version, string.sub(value, from, from + n - 1),
    string.sub(value, from + n, from + n + m - 1), string.sub(value, from + n + m)
end

-- Stores the position, which is created if there is none in this life.
local function keep_position()
  if forget == nil then
    call('HSET', position, life .. epoch, whole(last))
  else
    begin(call, position, epoch, whole(last), forget)
    if not forget then
      -- The stream belongs to a life that is over.
      call('UNLINK', stream)
    end
    forget = nil
  end
  if ARGV[6] ~= '0' then
    call('PEXPIRE', position, ARGV[6])
  end
end

-- Makes a change: assigns the next offset, appends to the stream if there is one, and publishes to the nodes. `before` is
-- the key's previous value, where the nodes have a use for it.
local function tell(record, before)
  last = last + 1
  keep_position()
  if streamed then
    local added = redis.pcall('XADD', stream, 'MAXLEN', size, whole(last) .. '-0', 'r', record)
    if type(added) == 'table' then
      -- The stream is ahead of its position: one of the two was restored alone. Both begin anew.
      call('UNLINK', position, stream)
      failed = added
      return
    end
    call('PEXPIRE', stream, ARGV[5])
  end
  local pair = before and '\3' .. #before .. ':' .. before or ''
  call(send, name, whole(last) .. ':' .. epoch .. ':' .. pair .. record)
end

-- Removes expired keys, and publishes their removal. More than a few are left to the next script.
local function expire()
  local due = call('ZRANGEBYSCORE', expiry, '-inf', whole(now), 'LIMIT', '0', '64')
  for _, key in ipairs(due) do
    local had = call('HGET', state, key)
    call('HDEL', state, key)
    call('ZREM', order, key)
    call('ZREM', expiry, key)
    if had then
      local _, _, _, _, removal = parts(had)
      if removal ~= '' then
        tell(removal)
      end
      if failed then
        return
      end
    end
  end
  if #due > 0 and call('ZCARD', order) > 0 then
    call('HSET', state, '', whole(last))
  end
end

