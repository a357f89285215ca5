-- A member gives up a partition: what it holds goes back without blame.
-- KEYS: stream, waiting, inbox, waiting of the inbox, members, owner. ARGV: me, group, ordered (0|1), it leaves the group (0|1).
local me, group = ARGV[1], ARGV[2]
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local mine = redis.call('ZSCORE', KEYS[5], me)
if not mine or tonumber(mine) <= 0 then return -1 end
for at = 1, 3, 2 do
  if redis.call('EXISTS', KEYS[at]) == 1 then
    while true do
      local page = redis.call('XPENDING', KEYS[at], group, '-', '+', 500, me)
      for _, entry in ipairs(page) do
        redis.call('XCLAIM', KEYS[at], group, 'mq-waiting', 0, entry[1], 'JUSTID')
        -- The next owner of an ordered partition takes what is parked in the order of the stream.
        if ARGV[3] == '0' then redis.call('ZADD', KEYS[at + 1], 0, entry[1]) end
      end
      if #page < 500 then break end
    end
    redis.call('XGROUP', 'DELCONSUMER', KEYS[at], group, me)
  end
end
if ARGV[3] == '1' and redis.call('GET', KEYS[6]) == me then redis.call('DEL', KEYS[6]) end
-- Not forgotten at once: a read still under way may give it entries after this, and others must know that it is gone.
if ARGV[4] == '1' then redis.call('ZADD', KEYS[5], -now, me) end
return 1
