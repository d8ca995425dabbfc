-- Hands out records to the one that reads, and nothing to others.
--
-- KEYS  stream, turn
-- ARGV  reader, how long its turn holds from now on ms, group, after which id records are handed out anew that were handed
--       out before (or > for those that never were), the most records, the most bytes, the longest record in bytes
-- Gives {0}: it is another's turn; {2}: it was nobody's, so that what was handed out has to be asked for first; or
--       {1, {id, fields, or how long it is, or nothing where it is gone}, …}
--
-- One at a time is read, so that nothing is handed out past the bounds: what is handed out and not given back would be read
-- behind what comes after it.
local holder = redis.call('GET', KEYS[2])
if holder and holder ~= ARGV[1] then
  return {0}
end
-- A turn that is kept needs no memory: reading goes on where that is full.
if holder then
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
else
  redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
  -- Another may have read meanwhile, and not have done with it.
  if ARGV[4] == '>' then
    return {2}
  end
end

local after, records_max, bytes_max, longest = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local given, bytes = {1}, 0
while #given <= records_max and bytes < bytes_max do
  local read = redis.pcall('XREADGROUP', 'GROUP', ARGV[3], 'tidegate', 'COUNT', 1, 'STREAMS', KEYS[1], after)
  if read and read.err then
    if #given == 1 then
      return read
    end
    break
  end
  local record = read and read[1][2][1]
  if not record then
    break
  end
  local fields = record[2]
  if fields then
    local size = 0
    for _, text in ipairs(fields) do
      size = size + #text
    end
    -- Also of one that is not handed out: this copies it all the same.
    bytes = bytes + size
    if size > longest then
      fields = size
    end
  end
  given[#given + 1] = fields and {record[1], fields} or {record[1]}
  if after ~= '>' then
    after = record[1]
  end
end
return given
