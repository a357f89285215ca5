-- Reads a partition; an ordered one for its owner alone. KEYS: stream, inbox, members, owner.
-- ARGV: me, group, max, ordered (0|1).
-- Answers {state, entries, entries of the inbox, last id, last id of the inbox}; the ids when there was nothing.
local mine = redis.call('ZSCORE', KEYS[3], ARGV[1])
if not mine or tonumber(mine) <= 0 then return {'fenced'} end
if ARGV[4] == '1' and redis.call('GET', KEYS[4]) ~= ARGV[1] then return {'lost'} end
local max = tonumber(ARGV[3])
local function read(stream, count)
  if count <= 0 then return {} end
  local answer = redis.call('XREADGROUP', 'GROUP', ARGV[2], ARGV[1], 'COUNT', count, 'STREAMS', stream, '>')
  if not answer or not answer[1] then return {} end
  return answer[1][2]
end
local back = read(KEYS[2], max)
local new = read(KEYS[1], max - #back)
local ends = {'', ''}
if #back + #new == 0 then
  for at = 1, 2 do
    local info = redis.call('XINFO', 'STREAM', KEYS[at])
    for i = 1, #info, 2 do
      if info[i] == 'last-generated-id' then ends[at] = info[i + 1] end
    end
  end
end
return {'ok', new, back, ends[1], ends[2]}
