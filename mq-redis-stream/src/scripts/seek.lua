-- Moves a group. KEYS: stream, waiting, attempts, members. ARGV: group, last id that counts as delivered ($ is the newest).
-- Whoever has something of it has lost it: members are fenced and join again.
local function less(a, b)
  local am, as = string.match(a, '^(%d+)%-(%d+)$')
  local bm, bs = string.match(b, '^(%d+)%-(%d+)$')
  if #am ~= #bm then return #am < #bm end
  if am ~= bm then return am < bm end
  if #as ~= #bs then return #as < #bs end
  return as < bs
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], 1, '+inf')) do redis.call('ZADD', KEYS[4], -now, name) end
redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], ARGV[2])
local target = ARGV[2]
if target == '$' then
  local info = redis.call('XINFO', 'STREAM', KEYS[1])
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then target = info[i + 1] end
  end
end
local start = '-'
while true do
  local page = redis.call('XPENDING', KEYS[1], ARGV[1], start, '+', 500)
  for _, entry in ipairs(page) do
    -- A retry of what lies before the new place still comes; everything behind it is read again.
    if entry[2] ~= 'mq-waiting' or less(target, entry[1]) then
      redis.call('XACK', KEYS[1], ARGV[1], entry[1])
      redis.call('ZREM', KEYS[2], entry[1])
      redis.call('HDEL', KEYS[3], entry[1])
    end
  end
  if #page < 500 then break end
  start = '(' .. page[#page][1]
end
return 1
