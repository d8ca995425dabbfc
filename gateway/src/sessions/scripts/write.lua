-- Writes a session, if the writer holds it. A later version of the same holder stays.
--
-- KEYS  session
-- ARGV  holder before, '1' if that holder's session must exist, ttl ms, holder, version, value. A session is 16 digits of
--       its holder, 16 of its version, and the value. Digits are hexadecimal, so that later versions sort behind earlier ones.
-- Returns 1, or 0 if another holder has the session, or it does not exist and must
local there = redis.call('GETRANGE', KEYS[1], 0, 31)
if there == '' then
  if ARGV[2] == '1' then
    return 0
  end
elseif string.sub(there, 1, 16) ~= ARGV[1] then
  return 0
elseif ARGV[1] == ARGV[4] and string.sub(there, 17) > ARGV[5] then
  return 1
end
redis.call('SET', KEYS[1], ARGV[4] .. ARGV[5] .. ARGV[6], 'PX', ARGV[3])
return 1
