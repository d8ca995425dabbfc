
-- Makes publications: for each, assigning the offset, appending to the stream and delivering are one step, or none.
--
-- A script keeps what it did before a command was refused. So the first write is one that needs memory: whatever refuses
-- writes refuses that one, and none after it. Commands that may be refused for want of a right come before anything is
-- visible, and what they did is undone. The idempotency key is stored before the publication is.
--
-- KEYS  lease, life, and for each publication position and stream; for a single one also its idempotency key, if it has one
-- ARGV  as in life.lua, position ttl ms, and for each publication: pub/sub name, epoch that the channel is believed to have
--       ('' if that is unknown, or ttls may have to be renewed), stream size (0: no stream), stream ttl ms, renew ms, record.
--       For a single one also: idempotency ttl ms, and version and version epoch if there are any. The ttls are long enough
--       that they need not be renewed more often than that.
-- Returns for the single one, or for each: an error, the offset in the epoch that the channel was believed to have,
-- {duplicate 0 or 1}, {1, offset, epoch}, or {0, offset, epoch, ms for which the ttls need no renewal}

local rpcall = redis.pcall

-- Returns an error. If position and stream do not belong together, or are malformed (one of them was restored alone, or
-- changed by hand), both begin anew.
local function give_up(position, stream, error)
  for _, broken in ipairs({'equal or smaller', 'WRONGTYPE', 'not an integer'}) do
    if string.find(error.err, broken, 1, true) then
      call('UNLINK', position, stream)
    end
  end
  return error
end

-- Does all but assigning the offset. If the delivery is refused, the offset is taken back.
-- Returns the error if there is one, whether the publication was delivered, and whether the stream is new
local function deliver(position, field, offset, epoch, stream, name, size, record)
  local sent = rpcall(send, name, offset .. ':' .. epoch .. ':' .. record)
  if type(sent) == 'table' then
    call('HINCRBY', position, field, -1)
    return sent, false, false
  end
  local added = rpcall('XADD', stream, 'NOMKSTREAM', 'MAXLEN', size, offset .. '-0', 'r', record)
  local is_new = not added
  if is_new then
    added = rpcall('XADD', stream, offset .. '-0', 'r', record)
  end
  if type(added) == 'table' then
    return give_up(position, stream, added), true, false
  end
  return nil, true, is_new
end

-- Publishes in a channel that is believed to be in this epoch. Returns the offset or an error, or nil if its epoch is another.
local function publish_in(expected, position, stream, at)
  local field = life .. expected
  local offset = rpcall('HINCRBY', position, field, 1)
  if type(offset) == 'table' then
    return give_up(position, stream, offset)
  end
  if offset == 1 then
    -- The channel is in another epoch: the increment has created this field.
    call('HDEL', position, field)
    return nil
  end
  local failed, _, is_new = deliver(position, field, whole(offset), expected, stream, ARGV[at], ARGV[at + 2], ARGV[at + 5])
  if is_new and not failed then
    call('PEXPIRE', stream, ARGV[at + 3])
  end
  return failed or offset
end

-- Publishes in a channel of which nothing is known: finds its epoch, or begins one, and renews what is due.
local function publish(position, stream, once, at)
  local known = rpcall('HMGET', position, 'epoch', 'in_life', 'renew')
  if known.err then
    return give_up(position, stream, known)
  end
  if known[1] and known[2] and goes_on(position, known[1], known[2]) then
    known[2] = life
  end
  local epoch, version, is_in_life = known[1], #KEYS < 6 and ARGV[at + 7], known[1] and known[2] == life
  if is_in_life and version then
    -- Compared as text, because a number here has 53 bits.
    local last = call('HMGET', position, 'version', 'version_epoch')
    local had = last[1]
    local newer = not had or #version > #had or (#version == #had and version > had)
    if not newer and (ARGV[at + 8] == '' or ARGV[at + 8] == last[2]) then
      return {1, tonumber(call('HGET', position, life .. epoch)), epoch}
    end
  end
  local offset
  if is_in_life then
    offset = rpcall('HINCRBY', position, life .. epoch, 1)
  else
    local _, last, forget
    epoch, last, _, forget = where(position)
    offset = begin(rpcall, position, epoch, whole(last + 1), forget)
    if type(offset) == 'number' then
      offset = last + 1
      if not forget then
        -- The stream belongs to a life that is over.
        call('UNLINK', stream)
      end
    end
  end
  if type(offset) == 'table' then
    return give_up(position, stream, offset)
  end
  local field = life .. epoch
  if once then
    local kept = rpcall('SET', once, whole(offset) .. ':' .. epoch, 'PX', ARGV[at + 6])
    if kept.err then
      call('HINCRBY', position, field, -1)
      return kept
    end
  end
  local failed, is_delivered, is_new = deliver(position, field, whole(offset), epoch, stream, ARGV[at], ARGV[at + 2],
    ARGV[at + 5])
  if failed then
    if once and not is_delivered then
      call('DEL', once)
    end
    return failed
  end
  if version then
    call('HSET', position, 'version', version, 'version_epoch', ARGV[at + 8])
  end
  local renew_ms, renew = tonumber(ARGV[at + 4]), tonumber(known[3])
  if is_new or not (is_in_life and renew and renew > now and renew <= now + renew_ms) then
    renew = now + renew_ms
    call('HSET', position, 'renew', whole(renew))
    call('PEXPIRE', stream, ARGV[at + 3])
    call('PEXPIRE', position, ARGV[3])
  end
  return {0, offset, epoch, math.floor(renew - now)}
end

local once, name = #KEYS == 5 and KEYS[5], ARGV[4]
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
if ARGV[6] == '0' then
  if once then
    call('SET', once, '', 'PX', ARGV[10])
  end
  local sent = rpcall(send, name, ':' .. ARGV[9])
  if type(sent) == 'table' then
    if once then
      call('DEL', once)
    end
    return sent
  end
  return {0}
end

if #KEYS < 6 then
  local answer = ARGV[5] ~= '' and publish_in(ARGV[5], KEYS[3], KEYS[4], 4)
  return answer or publish(KEYS[3], KEYS[4], once, 4)
end
local answers = {}
for index = 1, (#KEYS - 2) / 2 do
  local position, stream, at = KEYS[2 * index + 1], KEYS[2 * index + 2], 6 * index - 2
  local answer = ARGV[at + 1] ~= '' and publish_in(ARGV[at + 1], position, stream, at)
  if not answer then
    local done
    done, answer = pcall(publish, position, stream, nil, at)
    if not done and type(answer) ~= 'table' then
      answer = {err = 'ERR ' .. tostring(answer)}
    end
  end
  answers[index] = answer
end
return answers
