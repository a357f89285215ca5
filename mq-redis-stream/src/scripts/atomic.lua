-- Stores messages and acknowledges deliveries in one step, or does nothing of it. KEYS: the streams of the messages, then
-- for each group of acknowledgements: stream, attempts, members, owner.
-- ARGV: count of streams, count of groups; for each group: me, group, ordered (0|1), count of ids, ids…; for each
-- message: the number of its stream, count of values, fields and values….
local streams, groups, at = tonumber(ARGV[1]), tonumber(ARGV[2]), 3
for i = 1, streams do
  if redis.call('TYPE', KEYS[i]).ok ~= 'stream' then return {'nowhere', i} end
end
local acks = {}
for g = 1, groups do
  local base = streams + (g - 1) * 4
  local me, group, ordered, count = ARGV[at], ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3])
  at = at + 4
  local mine = redis.call('ZSCORE', KEYS[base + 3], me)
  if not mine or tonumber(mine) <= 0 then return {'stale'} end
  if ordered == '1' and redis.call('GET', KEYS[base + 4]) ~= me then return {'stale'} end
  for i = at, at + count - 1 do
    local pending = redis.call('XPENDING', KEYS[base + 1], group, ARGV[i], ARGV[i], 1)[1]
    if not pending or pending[2] ~= me then return {'stale'} end
    acks[#acks + 1] = {base, group, ARGV[i]}
  end
  at = at + count
end
-- From here on nothing is refused: memory is asked for by the first command that needs some.
while at <= #ARGV do
  local count = tonumber(ARGV[at + 1])
  redis.call('XADD', KEYS[tonumber(ARGV[at])], '*', unpack(ARGV, at + 2, at + 1 + count))
  at = at + 2 + count
end
for _, ack in ipairs(acks) do
  redis.call('XACK', KEYS[ack[1] + 1], ack[2], ack[3])
  redis.call('HDEL', KEYS[ack[1] + 2], ack[3])
end
return {'ok'}
