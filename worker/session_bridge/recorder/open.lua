-- Begins a call without taking anything back from a hash that another writer has begun.
-- KEYS: the live session. ARGV: started_at.
local before_the_call = {
  queued = true, initiated = true, ringing = true,
}
redis.call('HSETNX', KEYS[1], 'started_at', ARGV[1])
local status = redis.call('HGET', KEYS[1], 'status')
if not status or before_the_call[string.lower(status)] then
  redis.call('HSET', KEYS[1], 'status', 'in_progress')
end
return 1
