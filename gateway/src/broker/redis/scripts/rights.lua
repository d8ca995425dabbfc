-- Returns the rights that the user lacks for scripts, by using each: the error of a script names only a line.
--
-- KEYS  three that nobody uses, whose types are made up here
-- ARGV  a pub/sub name, and the command that publishes there
-- Returns the names of the missing rights
local lacks = {}

local function try(...)
  local answer = redis.pcall(...)
  local refused = type(answer) == 'table' and answer.err
  if refused and (string.find(refused, 'executing the script', 1, true) or string.find(refused, 'ACL failure', 1, true)
    or string.find(refused, 'NOPERM', 1, true)) then
    lacks[#lacks + 1] = string.lower((...))
  end
end

local hash, set, list = KEYS[1] .. ':rights', KEYS[2] .. ':rights', KEYS[3] .. ':rights'
local sorted, text = hash .. ':sorted', set .. ':text'
try('TIME')
try('GET', text)
try('SET', text, '', 'PX', '1000')
try('HSET', hash, 'a', '1')
try('HGET', hash, 'a')
try('HINCRBY', hash, 'b', '1')
try('HKEYS', hash)
try('HMGET', hash, 'a')
try('HVALS', hash)
try('HLEN', hash)
try('HDEL', hash, 'a')
try('SADD', set, 'a')
try('SCARD', set)
try('SMEMBERS', set)
try('SUNION', set)
try('SREM', set, 'a')
try('ZADD', sorted, '1', 'a')
try('ZSCORE', sorted, 'a')
try('ZRANGE', sorted, '0', '-1')
try('ZRANGEBYSCORE', sorted, '-inf', '0')
try('ZREVRANGEBYSCORE', sorted, '0', '-inf')
try('ZRANGEBYLEX', sorted, '-', '+')
try('ZCARD', sorted)
try('ZREM', sorted, 'b')
try('ZREMRANGEBYSCORE', sorted, '-inf', '1')
try('XADD', list, 'MAXLEN', '1', '*', 'r', '')
try('XRANGE', list, '-', '+', 'COUNT', '1')
try('XREVRANGE', list, '+', '-', 'COUNT', '1')
try('PEXPIRE', list, '1000')
try('UNLINK', list)
try('DEL', hash, set, sorted, text)
try(ARGV[2] == 'SPUBLISH' and 'SPUBLISH' or 'PUBLISH', ARGV[1], '')
return lacks
