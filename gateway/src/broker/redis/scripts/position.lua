
-- Where a channel stands: behind life.lua, for scripts that give out positions.
--
-- A position (hash) has its epoch, the life of the data set it was made in, and the offset of the newest publication, in
-- a field that is named for both. So adding one to that field proves that neither has changed, without reading them. What an
-- epoch that is over got to is in the field `offset`.

local function whole(number)
  return string.format('%.0f', number)
end

-- In a cluster: whether an epoch that was begun at another master goes on here, which it does if its slot has come from there. That
-- master lives on under the same name then; where it was this one's, this one was promoted, and may lack what it had. Gives the
-- newest offset.
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

-- Epoch and newest offset of a position in this life, with more of its fields. The epoch is new where it has none in this life:
-- then the offset is that of the epoch before, and the last thing returned is the field to forget, or false if there
-- was no position at all.
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

-- Begins an epoch, with redis.call or redis.pcall. The first write needs memory. What earlier releases had goes.
local function begin(run, position, epoch, offset, forget)
  local begun = run('HSET', position, 'epoch', epoch, 'in_life', life, life .. epoch, offset)
  if type(begun) == 'number' and forget then
    call('HDEL', position, forget, 'offset', 'life', 'run')
  end
  return begun
end
