-- Trims what is older than its retention and settled by every group. KEYS: stream. ARGV: the oldest id to be kept.
local keep = ARGV[1]
local function parts(id)
  local ms, seq = string.match(id, '^(%d+)%-(%d+)$')
  return ms, seq
end
local function less(a, b)
  local am, as = parts(a)
  local bm, bs = parts(b)
  if #am ~= #bm then return #am < #bm end
  if am ~= bm then return am < bm end
  if #as ~= #bs then return #as < #bs end
  return as < bs
end
for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local name, last
  for i = 1, #info, 2 do
    if info[i] == 'name' then name = info[i + 1] elseif info[i] == 'last-delivered-id' then last = info[i + 1] end
  end
  local oldest = redis.call('XPENDING', KEYS[1], name)[2]
  -- What was delivered last is kept too: one entry too many, never one too few.
  if oldest and less(oldest, keep) then keep = oldest end
  if less(last, keep) then keep = last end
end
return redis.call('XTRIM', KEYS[1], 'MINID', keep)
