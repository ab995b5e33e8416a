-- Writes into a live session what a provider says of its call's end.
-- KEYS: the live session.
-- ARGV: the status it had when the provider was asked, the provider's name, then names and values, the status first.
-- Its word for the status replaces the writer's, unless somebody has said another meanwhile; any other field is written
-- only where there is none. A session that is gone is not made anew. Returns 1 if it is there, else 0.
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
if (redis.call('HGET', KEYS[1], 'status') or '') == ARGV[1] then
  redis.call('HSET', KEYS[1], 'status', ARGV[4], 'status_by', ARGV[2])
  -- It numbered the status that stood there before.
  redis.call('HDEL', KEYS[1], 'status_sequence')
end
for i = 5, #ARGV, 2 do
  if redis.call('HSTRLEN', KEYS[1], ARGV[i]) == 0 then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
return 1
