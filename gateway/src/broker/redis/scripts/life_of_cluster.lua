-- Determines the present life of the data set where the server is a master of a cluster, in place of life.lua.
--
-- All keys of a script must be in one slot, and a slot may move to another master while its keys live on. So a life
-- belongs to a master, and none of KEYS stores it: the lease is in some slot of this master, and the script does without
-- it while that slot moves.
--
-- ARGV  id of the process when the connection was opened, a line break, the name of the lease, a line break, and the present
--       names of the other masters' lives; a new epoch
-- Sets what life.lua does, and `others`, and `second`: the name of this master's life before it was promoted
local KEYS = {'', '', unpack(KEYS)}
local call, new_epoch, send = redis.call, ARGV[2], 'SPUBLISH'
local life, now, refused, unreadable, second
local run, lease_key, others = string.match(ARGV[1], '^(.-)\n(.-)\n(.*)$')
local lease = redis.pcall('GET', lease_key)
if type(lease) == 'string' and string.sub(lease, 1, 40) == run then
  life, second, now = string.sub(lease, 41, 56), string.sub(lease, 57, 72), tonumber(string.sub(lease, 73))
else
  local time = call('TIME')
  now = time[1] * 1000 + time[2] / 1000
  local told = call('INFO', 'replication')
  life = string.match(told, 'master_replid:(%x+)')
  if not life then
    return redis.error_reply('ERR INFO does not tell master_replid')
  end
  life = string.sub(life, 1, 16)
  second = string.sub(string.match(told, 'master_replid2:(%x+)') or '----------------', 1, 16)
  redis.set_repl(redis.REPL_NONE)
  local kept = redis.pcall('SET', lease_key, run .. life .. second .. string.format('%.0f', now), 'PX', '2')
  redis.set_repl(redis.REPL_ALL)
  local error = type(kept) == 'table' and kept.err
  if error and (string.find(error, 'OOM', 1, true) or string.find(error, 'MISCONF', 1, true)
    or string.find(error, 'NOREPLICAS', 1, true)) then
    refused = kept
  end
end

