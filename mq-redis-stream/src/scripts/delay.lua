-- Keeps a message until it is due. KEYS: stream, due set, bodies, counter. ARGV: due in ms, fields….
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local number = string.format('%016.0f', redis.call('INCR', KEYS[4]))
local fields = {}
for i = 2, #ARGV do fields[#fields + 1] = ARGV[i] end
redis.call('HSET', KEYS[3], number, cmsgpack.pack(fields))
redis.call('ZADD', KEYS[2], ARGV[1], number)
return 1
