-- Ends a claim: removes the request if nothing of the session is left, else makes it due again.
-- KEYS: the live session, the queue, the in-hand hash, the attempts hash, what a provider was asked of it.
-- ARGV: call SID, the claim's score, milliseconds until it is due again if something is left, and one of
--   'empty'  remove the request only if the live session is gone,
--   'done'   remove it whatever is left (a checkpoint),
--   'lives'  remove it, and the sweep's reason with it: a call that was given up for its silence goes on,
--   'later'  keep it, due again after the delay, and count this claim as one without an outcome,
--   'given'  keep it, due again after the delay.
-- Returns 'settled', 'left' (something is left and due again), 'withdrawn' or 'requested'.
local score = redis.call('ZSCORE', KEYS[2], ARGV[1])
local how = ARGV[4]
if how == 'later' and score then
  redis.call('HINCRBY', KEYS[3], ARGV[1], 1)
else
  redis.call('HDEL', KEYS[3], ARGV[1])
end
if not score then
  return 'withdrawn'
end
if tonumber(score) ~= tonumber(ARGV[2]) then
  return 'requested'
end
if how == 'lives' or how == 'empty' then
  local reason = redis.call('HMGET', KEYS[1], 'finalize_reason', 'finalized_by')
  local given_up = reason[1] == 'abandoned' and reason[2] == 'sweep'
  -- Where the reason is all that is left of the session, nothing is.
  if given_up and (how == 'lives' or redis.call('HLEN', KEYS[1]) == 2) then
    redis.call('HDEL', KEYS[1], 'finalize_reason', 'finalized_by')
  end
end
if how == 'done' or how == 'lives' or (how == 'empty' and redis.call('EXISTS', KEYS[1]) == 0) then
  redis.call('ZREM', KEYS[2], ARGV[1])
  if how == 'empty' then
    redis.call('HDEL', KEYS[4], ARGV[1])
    redis.call('UNLINK', KEYS[5])
  end
  return 'settled'
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('ZADD', KEYS[2], string.format('%.0f', now + tonumber(ARGV[3])), ARGV[1])
return 'left'
