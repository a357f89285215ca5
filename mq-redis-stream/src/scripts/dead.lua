-- Moves a delivery to the dead letters, whole, in one step. KEYS: stream, attempts, members, dead letters.
-- ARGV: me, group, id, has a record of its own to drop (0|1), count of record fields, record fields…, fallback fields….
local mine = redis.call('ZSCORE', KEYS[3], ARGV[1])
if not mine or tonumber(mine) <= 0 then return -1 end
local pending = redis.call('XPENDING', KEYS[1], ARGV[2], ARGV[3], ARGV[3], 1)[1]
if not pending or pending[2] ~= ARGV[1] then return 0 end
local count = tonumber(ARGV[5])
local fields = {'mq-record', ARGV[5]}
for i = 6, 5 + count * 2 do fields[#fields + 1] = ARGV[i] end
local entry = redis.call('XRANGE', KEYS[1], ARGV[3], ARGV[3])[1]
if not entry then return 2 end
local from = 1
if ARGV[4] == '1' and entry[2][1] == 'mq-record' then from = 3 + 2 * tonumber(entry[2][2]) end
for i = from, #entry[2] do fields[#fields + 1] = entry[2][i] end
-- The oldest first, of all partitions: a millisecond is too coarse for that, so the id counts microseconds too. After a
-- clock that stepped back Redis chooses the id.
local now = redis.call('TIME')
local id = now[1] .. string.format('%03d-%d', math.floor(now[2] / 1000), now[2] % 1000)
if type(redis.pcall('XADD', KEYS[4], id, unpack(fields))) == 'table' then redis.call('XADD', KEYS[4], '*', unpack(fields)) end
redis.call('XACK', KEYS[1], ARGV[2], ARGV[3])
redis.call('HDEL', KEYS[2], ARGV[3])
return 1
