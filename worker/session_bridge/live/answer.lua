-- Remembers what a provider answered of a call that has not ended.
-- KEYS: what is known of asking about the call, the live session.
-- ARGV: 'live', 'unknown' or 'missing' (the provider does not know the call), the milliseconds until it may be asked about
-- again after 'live'; the same for the first 'unknown', which doubles with each that follows, and at most; the milliseconds
-- to remember it.
-- Returns for how many milliseconds, from one answer to the next, the provider has not known the call.
if redis.call('EXISTS', KEYS[2]) == 0 then
  -- It was drained meanwhile: there is nothing to remember it for.
  redis.call('UNLINK', KEYS[1])
  return 0
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local wait, missing = tonumber(ARGV[2]), 0
if ARGV[1] == 'live' then
  redis.call('HDEL', KEYS[1], 'tries', 'missing_ms')
else
  local tries = redis.call('HINCRBY', KEYS[1], 'tries', 1)
  wait = math.min(tonumber(ARGV[4]), tonumber(ARGV[3]) * 2 ^ math.min(tries - 1, 30))
  if ARGV[1] == 'missing' then
    redis.call('HSETNX', KEYS[1], 'missing_ms', string.format('%.0f', now))
    missing = now - tonumber(redis.call('HGET', KEYS[1], 'missing_ms'))
  end
end
redis.call('HSET', KEYS[1], 'next_ms', string.format('%.0f', now + wait))
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return missing
