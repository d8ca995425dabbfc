-- The common part of the scripts of ledgers. News are in a sorted set by their numbers, and each begins with its number.
--
-- KEYS  leases, holders, counts, news, meta, held
-- ARGV  as each script says; the first two are the most news that are kept, and the most bytes of them
local leases, holders, counts, news, meta, held = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local news_max, bytes_max = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local last, bytes

local function whole(number)
  return string.format('%.0f', number)
end

local function open_log()
  if not last then
    local known = redis.call('HMGET', meta, 'last', 'bytes')
    last, bytes = tonumber(known[1]), tonumber(known[2]) or 0
    if not last then
      -- Numbers begin anew, so no news with earlier numbers may be left.
      redis.call('DEL', news)
      last, bytes = 0, 0
    end
  end
end

local function text_of(entry)
  return string.sub(entry, string.find(entry, ':', 1, true) + 1)
end

local function tell(text)
  open_log()
  last = last + 1
  bytes = bytes + #text
  redis.call('ZADD', news, whole(last), whole(last) .. ':' .. text)
end

-- Drops the oldest news beyond the bounds, and stores the last number.
local function close_log()
  if not last then
    return
  end
  local over = redis.call('ZCARD', news) - news_max
  while over > 0 or bytes > bytes_max do
    local oldest = redis.call('ZRANGE', news, 0, 0)[1]
    if not oldest then
      bytes = 0
      break
    end
    bytes = bytes - #text_of(oldest)
    over = over - 1
    redis.call('ZREM', news, oldest)
  end
  redis.call('HSET', meta, 'last', whole(last), 'bytes', whole(bytes))
end

local function hold(holder, subject)
  if redis.call('ZADD', held .. ':' .. holder, 0, subject) == 1 then
    local count = tonumber(redis.call('HGET', holders, subject)) or 0
    redis.call('HSET', holders, subject, whole(count + 1))
    if count == 0 then
      tell('+' .. subject)
    end
  end
end

local function release(holder, subject)
  if redis.call('ZREM', held .. ':' .. holder, subject) == 0 then
    return
  end
  local count = tonumber(redis.call('HGET', holders, subject)) or 1
  if count > 1 then
    redis.call('HSET', holders, subject, whole(count - 1))
    return
  end
  redis.call('HDEL', holders, subject)
  if redis.call('HDEL', counts, subject) == 1 then
    tell('#0 ' .. subject)
  end
  tell('-' .. subject)
end

-- Returns whether this holder has a lease that has not run out.
local function has_lease(holder)
  local score = redis.call('ZSCORE', leases, holder)
  return score and tonumber(score) > now
end
