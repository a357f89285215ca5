-- Removes a broadcast consumer's group when its member is long dead. KEYS: stream, members, keys of the group….
-- ARGV: group, how long its member must be dead, in ms. Answers 1 when it is gone.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local latest
local members = redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES')
for i = 2, #members, 2 do
  -- Negative: dead since then. Positive: the end of its session.
  local score = math.abs(tonumber(members[i]))
  if not latest or score > latest then latest = score end
end
if not latest then
  -- Its member has not joined yet, or never will: the time counts from now.
  redis.call('ZADD', KEYS[2], -now, 'mq-nobody')
  return 0
end
if latest + tonumber(ARGV[2]) > now then return 0 end
redis.call('XGROUP', 'DESTROY', KEYS[1], ARGV[1])
for i = 3, #KEYS do redis.call('UNLINK', KEYS[i]) end
return 1
