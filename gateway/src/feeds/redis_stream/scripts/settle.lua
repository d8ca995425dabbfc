-- Lets go of records: those that are dead letters are copied to where such are kept before.
--
-- KEYS  stream, stream of dead letters
-- ARGV  group, the most dead letters, 1 where records are deleted, how many are no dead letters, their ids,
--       then for each dead letter its id and the reason
-- Gives how many dead letters were made
local group, dead_max, deletes, count = ARGV[1], ARGV[2], ARGV[3] == '1', tonumber(ARGV[4])

local function let_go(id)
  redis.call('XACK', KEYS[1], group, id)
  if deletes then
    redis.call('XDEL', KEYS[1], id)
  end
end

-- First, for it needs no memory and no place of dead letters: what is published is let go of whatever becomes of those.
for at = 5, 4 + count do
  let_go(ARGV[at])
end
local made = 0
for at = 5 + count, #ARGV, 2 do
  local id, reason = ARGV[at], ARGV[at + 1]
  -- Another reader may have done it.
  if #redis.call('XPENDING', KEYS[1], group, id, id, 1) > 0 then
    local letter = {KEYS[2], 'MAXLEN', '~', dead_max, '*', 'feed_reason', reason, 'feed_stream', KEYS[1], 'feed_id', id}
    local record = redis.call('XRANGE', KEYS[1], id, id)[1]
    local fields = record and record[2] or {}
    -- More than a call can take.
    if #fields > 2000 then
      fields = {'feed_omitted', #fields / 2}
    end
    for _, text in ipairs(fields) do
      letter[#letter + 1] = text
    end
    redis.call('XADD', unpack(letter))
    made = made + 1
    let_go(id)
  end
end
return made
