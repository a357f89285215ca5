-- How far a group is behind in one stream. KEYS: stream, waiting. ARGV: group, most entries to count.
-- Answers {not delivered, pending, of those not in anybody's hands, of those not yet due, last delivered, last id}, or nothing.
local now
do
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
if redis.call('EXISTS', KEYS[1]) == 0 then return {} end
for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = {}
  for i = 1, #info, 2 do group[info[i]] = info[i + 1] end
  if group['name'] == ARGV[1] then
    local last = redis.call('XINFO', 'STREAM', KEYS[1])
    local stream = {}
    for i = 1, #last, 2 do stream[last[i]] = last[i + 1] end
    local lag = group['lag']
    -- Redis 7.0 reloads an append-only file with a lag of entries long delivered.
    if group['last-delivered-id'] == stream['last-generated-id'] then lag = 0 end
    if not lag then
      lag = 0
      local start, most = '(' .. group['last-delivered-id'], tonumber(ARGV[2])
      while lag < most do
        local page = redis.call('XRANGE', KEYS[1], start, '+', 'COUNT', 1000)
        lag = lag + #page
        if #page < 1000 then break end
        start = '(' .. page[#page][1]
      end
    end
    local parked = 0
    local consumers = redis.call('XPENDING', KEYS[1], ARGV[1])[4]
    for _, consumer in ipairs(consumers or {}) do
      if consumer[1] == 'mq-waiting' then parked = tonumber(consumer[2]) end
    end
    local later = redis.call('ZCOUNT', KEYS[2], '(' .. now, '+inf')
    return {lag, group['pending'], parked, later, group['last-delivered-id'], stream['last-generated-id']}
  end
end
return {}
