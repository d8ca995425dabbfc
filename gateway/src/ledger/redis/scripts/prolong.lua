-- Prolongs a holder's lease, and frees some of what those held whose lease is over.
--
-- The first write frees memory, so that a full Redis lets it and the rest through: a lease is a few bytes, and what is freed
-- is more than the news of it.
--
-- ARGV  most news, most bytes, holder, lease ms, 1 if the lease is to begin, how much is freed at most, ms for which all this
--       is kept if nobody comes
-- Gives 1, or 2 if there is more to be freed, or 0 if the holder's lease is over: then nothing was done for it
local holder, lease, begins, limit = ARGV[3], tonumber(ARGV[4]), ARGV[5] == '1', tonumber(ARGV[6])
redis.call('ZREM', leases, '')
local holds = begins or has_lease(holder)
if holds then
  redis.call('ZADD', leases, whole(now + lease), holder)
end
local is_more = false
for _, dead in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', whole(now))) do
  local subjects = limit > 0 and redis.call('ZRANGE', held .. ':' .. dead, 0, limit - 1) or {}
  for _, subject in ipairs(subjects) do
    release(dead, subject)
  end
  limit = limit - #subjects
  if redis.call('ZCARD', held .. ':' .. dead) == 0 then
    redis.call('DEL', held .. ':' .. dead)
    redis.call('ZREM', leases, dead)
  else
    is_more = true
  end
end
close_log()
for i = 1, 5 do
  redis.call('PEXPIRE', KEYS[i], ARGV[7])
end
redis.call('PEXPIRE', held .. ':' .. holder, ARGV[7])
if not holds then
  return 0
end
return is_more and 2 or 1
