-- Leave to ask a provider about a call, given to one worker at a time and only so often a minute to all together.
-- KEYS: what is known of asking about the call, the last minute's questions, the provider's pause.
-- ARGV: questions a minute at most, the milliseconds within which nobody else asks, the milliseconds to remember it.
-- Returns 'ask', 'later' (it was asked about not long ago), 'paused' (the provider is left alone) or 'enough'.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if tonumber(redis.call('HGET', KEYS[1], 'next_ms') or '0') > now then
  return 'later'
end
if redis.call('EXISTS', KEYS[3]) == 1 then
  return 'paused'
end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now - 60000))
if redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[1]) then
  return 'enough'
end
-- Hashed: what a call is named after need not stand in a second place.
redis.call('ZADD', KEYS[2], string.format('%.0f', now), time[1] .. '.' .. time[2] .. ':' .. redis.sha1hex(KEYS[1]))
redis.call('PEXPIRE', KEYS[2], 61000)
redis.call('HSET', KEYS[1], 'next_ms', string.format('%.0f', now + tonumber(ARGV[2])))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 'ask'
