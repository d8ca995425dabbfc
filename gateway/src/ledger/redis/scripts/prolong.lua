-- Renews a holder's lease, and releases some entries of holders whose lease has run out.
--
-- The first write frees memory, so that a full Redis allows it and those that follow: a lease takes a few bytes, and
-- releasing entries frees more than the news of it take.
--
-- ARGV  most news, most bytes, holder, lease ms, 1 if the lease is to begin, the most entries to release, ms for which an
--       unused ledger is kept
-- Returns 1, or 2 if there are more entries to release, or 0 if the holder's lease had run out: then it was not renewed
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
