-- Delivers records to the reader that has the lease, and nothing to others.
--
-- KEYS  stream, lease
-- ARGV  reader, lease ms, group, id after which records that were delivered before are delivered again (or > for new ones),
--       the most records, the most bytes, the longest record in bytes
-- Returns {0} if another reader has the lease, {2} if none had it and the reader must first ask for the records that were
-- delivered before, or {1, {id, fields; or the length of a longer record; or nothing if the record is gone}, ...}
--
-- Records are read one by one, so that none is delivered past the bounds: a record that was delivered and not returned would
-- be read behind those that follow it.
local holder = redis.call('GET', KEYS[2])
if holder and holder ~= ARGV[1] then
  return {0}
end
-- Renewing a lease needs no memory, so reading goes on when Redis is full.
if holder then
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
else
  redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
  -- Another reader may have read records meanwhile without acknowledging them.
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
    -- A record that is too long is counted too, because it is copied all the same.
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
