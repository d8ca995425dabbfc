
-- The position of a channel: behind life.lua, for scripts that assign positions.
--
-- A position (hash) holds its epoch, the life of the data set it was created in, and the offset of the newest
-- publication, in a field that is named after both. So incrementing that field proves that neither has changed, without
-- reading them. The field `offset` holds the last offset of an epoch that is over.

local function whole(number)
  return string.format('%.0f', number)
end

-- In a cluster: whether an epoch begun at another master continues here, which it does if its slot was moved here from
-- there. That master's life then goes on under the same name. If the life was this master's own before it was promoted,
-- data may be missing, and the epoch ends. Returns the newest offset.
local function goes_on(position, epoch, of)
  if not others or of == life or of == second or not string.find(others, of, 1, true) then
    return nil
  end
  local offset = call('HGET', position, of .. epoch)
  if offset and type(redis.pcall('HSET', position, 'in_life', life, life .. epoch, offset)) == 'number' then
    call('HDEL', position, of .. epoch)
    return offset
  end
end

-- Returns the epoch and the newest offset of a position in this life, with more of its fields. If it has no epoch in this
-- life, the epoch is new and the offset is that of the epoch before; the last value returned is then the field to forget,
-- or false if there was no position at all.
local function where(position, ...)
  local known = call('HMGET', position, 'epoch', 'in_life', ...)
  local epoch, of = known[1], known[2]
  if epoch and of then
    local field = of .. epoch
    local offset = call('HGET', position, field)
    if offset and of == life then
      return epoch, tonumber(offset), known, nil
    end
    if offset and goes_on(position, epoch, of) then
      return epoch, tonumber(offset), known, nil
    end
    return new_epoch, tonumber(offset or call('HGET', position, 'offset') or 0), known, field
  end
  return new_epoch, tonumber(call('HGET', position, 'offset') or 0), known, epoch and 'offset'
end

-- Begins an epoch, with redis.call or redis.pcall. The first write needs memory. Fields of earlier releases are removed.
local function begin(run, position, epoch, offset, forget)
  local begun = run('HSET', position, 'epoch', epoch, 'in_life', life, life .. epoch, offset)
  if type(begun) == 'number' and forget then
    call('HDEL', position, forget, 'offset', 'life', 'run')
  end
  return begun
end
