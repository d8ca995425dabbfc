-- Reads a page of a channel's keys, and the channel's position.
--
-- KEYS  as in keys.lua
-- ARGV  as in keys.lua, limit (0: the position only), 'name', 'score', 'ascending' or 'key', score and key of the
--       cursor (the key empty: from the beginning), bytes after which it is enough
-- Returns {offset, epoch, cursor score, cursor key (empty: the end), entries}, an entry being offset and record
if unreadable then
  return unreadable
end
if not refused then
  expire()
  if failed then
    return failed
  end
  if forget ~= nil then
    keep_position()
  end
end
local limit, way, from_score, from_key = tonumber(ARGV[7]), ARGV[8], ARGV[9], ARGV[10]
local entries, bytes, enough = {}, 0, tonumber(ARGV[11])
local cursor_score, cursor_key = '0', ''

-- Adds a key to the page. Returns false if the page is full.
local function add(key, score)
  if #entries >= 2 * limit or (#entries > 0 and bytes >= enough) then
    return false
  end
  local value = call('HGET', state, key)
  if value then
    local offset, _, _, _, removal, record = parts(value)
    -- More keys may have expired than were removed just now, and the removal of this kind is never published.
    local is_over = removal == '' and (tonumber(call('ZSCORE', expiry, key)) or now + 1) <= now
    if not is_over then
      entries[#entries + 1] = offset
      entries[#entries + 1] = record
      bytes = bytes + #record
    end
  end
  cursor_score, cursor_key = score, key
  return true
end

local function give(is_full)
  if not is_full then
    cursor_key = ''
  end
  return {last, epoch, cursor_score, cursor_key, entries}
end

if way == 'key' then
  limit = 1
  add(from_key, '0')
  return give(false)
end
if limit == 0 then
  return give(false)
end
local step = math.min(limit + 1, 256)
if way == 'name' then
  local from = from_key == '' and '-' or '(' .. from_key
  while true do
    local part = call('ZRANGEBYLEX', order, from, '+', 'LIMIT', '0', step)
    for _, key in ipairs(part) do
      if not add(key, '0') then
        return give(true)
      end
    end
    if #part < step then
      return give(false)
    end
    from = '(' .. part[#part]
  end
end
-- Among keys of one score, those up to the cursor's are skipped.
local command, first, to, at = 'ZREVRANGEBYSCORE', '+inf', '-inf', 0
if way == 'ascending' then
  command, first, to = 'ZRANGEBYSCORE', '-inf', '+inf'
end
if from_key ~= '' then
  first = from_score
end
while true do
  local part = call(command, order, first, to, 'WITHSCORES', 'LIMIT', at, step)
  for index = 1, #part, 2 do
    local key, score = part[index], part[index + 1]
    local is_passed = from_key ~= '' and tonumber(score) == tonumber(from_score)
      and ((way == 'ascending' and key <= from_key) or (way ~= 'ascending' and key >= from_key))
    if not is_passed and not add(key, whole(tonumber(score))) then
      return give(true)
    end
  end
  if #part < 2 * step then
    return give(false)
  end
  at = at + step
end
