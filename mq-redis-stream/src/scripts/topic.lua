-- Declares a topic. KEYS: the topic, the list.
-- ARGV: name, partitions or '', retention in ms or '', default partitions, default retention.
-- Answers the partitions it has: the caller compares.
local has = redis.call('HGET', KEYS[1], 'partitions')
if not has then
  has = ARGV[2] ~= '' and ARGV[2] or ARGV[4]
  redis.call('HSET', KEYS[1], 'partitions', has, 'retention', ARGV[5])
end
if ARGV[3] ~= '' then redis.call('HSET', KEYS[1], 'retention', ARGV[3]) end
redis.call('SADD', KEYS[2], ARGV[1])
return has
