-- Brings dead letters back to their group, in one step each. KEYS: dead letters, inbox. ARGV: ids….
local moved = 0
for _, id in ipairs(ARGV) do
  local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
  if entry then
    local fields, from, redrives, message_id = entry[2], 1, 0, false
    if fields[1] == 'mq-record' then
      from = 3 + 2 * tonumber(fields[2])
      for i = 3, from - 1, 2 do
        if fields[i] == 'mq-redrives' then redrives = tonumber(fields[i + 1]) or 0 end
        if fields[i] == 'mq-id' then message_id = fields[i + 1] end
      end
    end
    local out = {'mq-record', '1', 'mq-redrives', tostring(math.floor(redrives + 1))}
    if message_id then
      out[2] = '2'
      out[5], out[6] = 'mq-id', message_id
    end
    for i = from, #fields do out[#out + 1] = fields[i] end
    redis.call('XADD', KEYS[2], '*', unpack(out))
    redis.call('XDEL', KEYS[1], id)
    moved = moved + 1
  end
end
return moved
