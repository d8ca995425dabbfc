-- Determines the present life of the data set: the beginning of every script that assigns positions.
--
-- A life ends where the data set may have gone back: with each start of Redis and each promotion, both of which change
-- `master_replid`. It must be determined while the script runs, because a connection survives its server's demotion and
-- promotion. INFO would cost a third of a publication, so its answer holds for two milliseconds, in a lease that is valid
-- for one process and is not replicated. Where INFO is forbidden, a life is a random name that every node deletes as it
-- connects.
--
-- KEYS  lease, life
-- ARGV  id of the process when the connection was opened (40 hyphens: INFO is forbidden), a new epoch
-- Sets `life` (16 bytes), `now` (ms, up to 2 late), `refused` (why Redis takes no writes, if one was tried), `unreadable` (the
-- same, if reading makes no sense either), and `send`, the command that publishes
local call, new_epoch, send = redis.call, ARGV[2], 'PUBLISH'
local life, now, refused, unreadable, others, second
local lease = call('GET', KEYS[1])
if lease and string.sub(lease, 1, 40) == ARGV[1] then
  life, now = string.sub(lease, 41, 56), tonumber(string.sub(lease, 57))
else
  local time = call('TIME')
  now = time[1] * 1000 + time[2] / 1000
  local written = call('GET', KEYS[2])
  if string.sub(ARGV[1], 1, 1) == '-' then
    life = written or ('unnamed:' .. new_epoch)
  else
    local named = string.match(call('INFO', 'replication'), 'master_replid:(%x+)')
    if not named then
      return redis.error_reply('ERR INFO does not tell master_replid')
    end
    life = string.sub(named, 1, 16)
  end
  if life ~= written then
    refused = redis.pcall('SET', KEYS[2], life)
  end
  if not (refused and refused.err) then
    redis.set_repl(redis.REPL_NONE)
    refused = redis.pcall('SET', KEYS[1], ARGV[1] .. life .. string.format('%.0f', now), 'PX', '2')
    redis.set_repl(redis.REPL_ALL)
  end
  refused = refused.err and refused
  if refused then
    -- A master that is full, cannot save or has too few replicas still has the latest data; a replica may not.
    local still_master = string.find(refused.err, 'OOM', 1, true) or string.find(refused.err, 'MISCONF', 1, true)
      or string.find(refused.err, 'NOREPLICAS', 1, true)
    unreadable = (not still_master or not written) and refused
  end
end

