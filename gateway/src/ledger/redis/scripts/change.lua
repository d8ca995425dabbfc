-- Makes the changes of a holder, in order.
--
-- The first write needs memory: a full Redis refuses all changes, and the holder tries again.
--
-- ARGV  most news, most bytes, holder; then a letter and a text for each change: + and - with an entry that is held or
--       released, # with a count, a space and the entry that has it, = with an event
-- Returns 1, or 0 if the holder's lease has run out: then nothing was done
local holder = ARGV[3]
if not has_lease(holder) then
  return 0
end
redis.call('ZADD', leases, redis.call('ZSCORE', leases, holder), holder)
for i = 4, #ARGV, 2 do
  local letter, text = ARGV[i], ARGV[i + 1]
  if letter == '+' then
    hold(holder, text)
  elseif letter == '-' then
    release(holder, text)
  elseif letter == '=' then
    tell('=' .. text)
  else
    local count, subject = string.match(text, '^(%d+) (.*)$')
    if count == '0' then
      if redis.call('HDEL', counts, subject) == 1 then
        tell('#0 ' .. subject)
      end
    elseif redis.call('HGET', counts, subject) ~= count then
      redis.call('HSET', counts, subject, count)
      tell('#' .. text)
    end
  end
end
close_log()
return 1
