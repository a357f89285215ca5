-- Moves due messages to their stream. KEYS: stream, due set, bodies. ARGV: max. Answers {moved, ms until the next or -1}.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local moved = 0
for _, number in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, tonumber(ARGV[1]))) do
  local packed = redis.call('HGET', KEYS[3], number)
  if packed then redis.call('XADD', KEYS[1], '*', unpack(cmsgpack.unpack(packed))) end
  redis.call('ZREM', KEYS[2], number)
  redis.call('HDEL', KEYS[3], number)
  moved = moved + 1
end
local next = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
local wait = -1
if next[2] then wait = math.max(0, tonumber(next[2]) - now) end
return {moved, wait}
