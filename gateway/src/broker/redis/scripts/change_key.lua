-- Sets or removes one key: state, stream and delivery are one step.
--
-- KEYS  as in keys.lua, and the idempotency key if there is one
-- ARGV  as in keys.lua, key ttl ms (0: it does not expire), the most keys, 'set' or 'remove', key, record (of a removal: empty
--       to publish the stored one), record of its later removal, score, 'any', 'if_new' or 'if_exists', 1 to renew the ttl of
--       a key that exists, expected offset and epoch (both empty: any), version (0: none), its epoch, idempotency ttl ms,
--       state ttl ms (0: it does not expire), 1 if nodes are told the key's previous value
-- Returns {reason or '', offset, epoch}; the reason 'full' is an error
local key_ttl, keys_max, action, key = tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9], ARGV[10]
local record, removal, score, mode = ARGV[11], ARGV[12], ARGV[13], ARGV[14]
local version, version_epoch, once = ARGV[18], ARGV[19], KEYS[8]

if once then
  local earlier = call('GET', once)
  if earlier then
    local offset, of = string.match(earlier, '^(%d+):(.*)$')
    return {'idempotency', tonumber(offset), of}
  end
end
if refused then
  return refused
end
expire()
if failed then
  return failed
end

local function answer(reason)
  if reason == '' and once then
    call('SET', once, whole(last) .. ':' .. epoch, 'PX', ARGV[20])
  end
  return {reason, last, epoch}
end

local had = call('HGET', state, key)
local had_offset, had_version, had_epoch, had_removal, had_record
if had then
  local _
  had_offset, _, had_version, had_epoch, had_removal, had_record = parts(had)
end
if streamed and ARGV[17] ~= '' and (had_offset ~= ARGV[16] or epoch ~= ARGV[17]) then
  return answer('position_mismatch')
end

if action == 'remove' then
  if not had then
    return answer('key_not_found')
  end
  call('HDEL', state, key)
  call('ZREM', order, key)
  call('ZREM', expiry, key)
  tell(record == '' and had_removal or record)
  if failed then
    return failed
  end
  if call('ZCARD', order) == 0 then
    call('UNLINK', state)
  else
    call('HSET', state, '', whole(last))
  end
  return answer('')
end

local function live_on()
  if key_ttl > 0 then
    call('ZADD', expiry, whole(now + key_ttl), key)
    for _, kept in ipairs({state, order, expiry}) do
      call('PEXPIRE', kept, ARGV[21])
    end
  end
end

if had then
  if mode == 'if_new' then
    if ARGV[15] == '1' then
      live_on()
    end
    return answer('key_exists')
  end
  if streamed and version ~= '0' then
    -- Compared as text, because a number here has 53 bits.
    local newer = #version > #had_version or (#version == #had_version and version > had_version)
    if not newer and (version_epoch == '' or version_epoch == had_epoch) then
      return answer('version')
    end
  end
elseif mode == 'if_exists' then
  return answer('key_not_found')
elseif call('ZCARD', order) >= keys_max then
  return {'full', last, epoch}
end
if version == '0' and had then
  -- A version that was given once still counts after a change that has none.
  version, version_epoch = had_version, had_epoch
end
-- If the key had other tags, its removal is published first: for subscribers whose filters do not match the new tags.
local retagged = had and had_removal ~= removal
local at = last + (retagged and 2 or 1)
-- The first write needs memory: whatever refuses writes refuses this one, and none after it.
call('HSET', state, key, whole(at) .. ':' .. score .. ':' .. version .. ':' .. #version_epoch .. ':'
  .. #removal .. ':' .. version_epoch .. removal .. record, '', whole(at))
call('ZADD', order, score, key)
if retagged then
  tell(had_removal)
  if failed then
    return failed
  end
end
tell(record, not retagged and ARGV[22] == '1' and had_record)
if failed then
  return failed
end
live_on()
return answer('')
