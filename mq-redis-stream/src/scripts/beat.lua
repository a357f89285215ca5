-- A member lives on; in an ordered group also who should own the partition, and who does.
-- KEYS: members, owner. ARGV: me, session in ms, ordered (0|1), partition.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local mine = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not mine or tonumber(mine) <= 0 then return {'fenced'} end
local session, left = tonumber(ARGV[2]), tonumber(mine) - now
-- Rarely written: each write is flushed to disk. More than a session is left when the clock was set back: then the end of
-- this member would be noticed that much later.
if left < session * 3 / 4 or left > session then redis.call('ZADD', KEYS[1], now + session, ARGV[1]) end
if ARGV[3] == '0' then return {'ok'} end
local live = redis.call('ZRANGEBYSCORE', KEYS[1], now, '+inf')
table.sort(live)
local wanted = live[tonumber(ARGV[4]) % #live + 1]
local owner = redis.call('GET', KEYS[2])
if owner and owner ~= ARGV[1] then
  local score = redis.call('ZSCORE', KEYS[1], owner)
  if not score or tonumber(score) < now then
    -- Fenced first: what the dead owner still sends settles nothing.
    if score and tonumber(score) > 0 then redis.call('ZADD', KEYS[1], -now, owner) end
    redis.call('DEL', KEYS[2])
    owner = false
  end
end
if wanted == ARGV[1] then
  if not owner then
    redis.call('SET', KEYS[2], ARGV[1])
    owner = ARGV[1]
  end
  if owner == ARGV[1] then return {'own'} end
  return {'ok'}
end
if owner == ARGV[1] then return {'yield'} end
return {'ok'}
