-- Hands out what waits for its time and what dead members hold.
-- KEYS: stream, waiting, attempts, members, owner. ARGV: me, group, max, lease of strangers in ms, ordered (0|1).
-- Answers {state, {id, fields, deliveries, attempt record, …}, lost, ms until the next is due or -1, more}.
local stream, waiting, attempts, members, owner = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local me, group, max, lease, ordered = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5] == '1'
local parked = 'mq-waiting'
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local mine = redis.call('ZSCORE', members, me)
if not mine or tonumber(mine) <= 0 then return {'fenced', {}, 0, -1, 0} end
if ordered and redis.call('GET', owner) ~= me then return {'lost', {}, 0, -1, 0} end
local found, lost, more = {}, 0, 0
local function take(id, count)
  local body
  if count then
    body = redis.call('XCLAIM', stream, group, me, 0, id)[1]
  else
    redis.call('XCLAIM', stream, group, me, 0, id, 'JUSTID')
    body = redis.call('XRANGE', stream, id, id)[1]
  end
  redis.call('ZREM', waiting, id)
  local pending = redis.call('XPENDING', stream, group, id, id, 1)[1]
  if body and body[2] and pending then
    found[#found + 1] = {id, body[2], pending[4], redis.call('HGET', attempts, id) or ''}
  else
    -- Trimmed while it was pending: Redis has nothing of it any more.
    redis.call('XACK', stream, group, id)
    redis.call('HDEL', attempts, id)
    lost = lost + 1
  end
end
local function dead(name)
  if name == me or name == parked then return false end
  local score = redis.call('ZSCORE', members, name)
  return score and tonumber(score) < now
end
if ordered then
  -- In the order of the stream, also what another held for a retry: the owner keeps it back until it is due.
  local start = '-'
  while #found < max do
    local page = redis.call('XPENDING', stream, group, start, '+', 100)
    for _, entry in ipairs(page) do
      if #found >= max then more = 1 break end
      if entry[2] == parked then
        local due = redis.call('ZSCORE', waiting, entry[1])
        if not due or tonumber(due) <= now then take(entry[1], false) end
      elseif entry[2] ~= me then
        local score = redis.call('ZSCORE', members, entry[2])
        if score or entry[3] >= tonumber(lease) then take(entry[1], true) end
      end
    end
    if #page < 100 then break end
    start = '(' .. page[#page][1]
  end
else
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', waiting, '-inf', now, 'LIMIT', 0, max)) do take(id, false) end
  for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
    local name, pending
    for i = 1, #info, 2 do
      if info[i] == 'name' then name = info[i + 1] elseif info[i] == 'pending' then pending = info[i + 1] end
    end
    if name ~= me and name ~= parked then
      local stranger = not redis.call('ZSCORE', members, name)
      if dead(name) then
        -- Fenced first: what it still sends settles nothing. Negative: dead since then.
        if tonumber(redis.call('ZSCORE', members, name)) > 0 then redis.call('ZADD', members, -now, name) end
        if pending == 0 then redis.call('XGROUP', 'DELCONSUMER', stream, group, name) end
      end
      if pending > 0 and (stranger or dead(name)) then
        local room = max - #found
        if room <= 0 then more = 1 break end
        local page
        if stranger then
          page = redis.call('XPENDING', stream, group, 'IDLE', lease, '-', '+', room, name)
        else
          page = redis.call('XPENDING', stream, group, '-', '+', room, name)
        end
        for _, entry in ipairs(page) do take(entry[1], true) end
      end
    end
  end
end
redis.call('ZREMRANGEBYSCORE', members, '(' .. -(now - 3600000), 0)
local next = redis.call('ZRANGE', waiting, 0, 0, 'WITHSCORES')
local wait = -1
if next[2] then wait = math.max(0, tonumber(next[2]) - now) end
return {'ok', found, lost, wait, more}
