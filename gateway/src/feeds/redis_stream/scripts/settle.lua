-- Acknowledges records. Dead letters are first copied to the stream of dead letters.
--
-- KEYS  stream, stream of dead letters
-- ARGV  group, the most dead letters, 1 to delete acknowledged records, number of records that are no dead letters, their
--       ids, then id and reason of each dead letter
-- Returns the number of dead letters made
local group, dead_max, deletes, count = ARGV[1], ARGV[2], ARGV[3] == '1', tonumber(ARGV[4])

local function let_go(id)
  redis.call('XACK', KEYS[1], group, id)
  if deletes then
    redis.call('XDEL', KEYS[1], id)
  end
end

-- These come first, because they need no memory and no stream of dead letters: published records are acknowledged even if
-- the dead letters fail.
for at = 5, 4 + count do
  let_go(ARGV[at])
end
local made = 0
for at = 5 + count, #ARGV, 2 do
  local id, reason = ARGV[at], ARGV[at + 1]
  -- Another reader may have acknowledged it.
  if #redis.call('XPENDING', KEYS[1], group, id, id, 1) > 0 then
    local letter = {KEYS[2], 'MAXLEN', '~', dead_max, '*', 'feed_reason', reason, 'feed_stream', KEYS[1], 'feed_id', id}
    local record = redis.call('XRANGE', KEYS[1], id, id)[1]
    local fields = record and record[2] or {}
    -- A command cannot take more arguments.
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
