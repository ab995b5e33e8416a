-- Asks for a live session to be drained, if it still is there.
-- KEYS: the live session, the ready set.  ARGV: call SID, why ('' to leave that as it is), by whom.
-- A request that somebody else made stays as it is, also one without a reason.
-- Returns 1 if the session is there, else 0.
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
if ARGV[2] ~= '' and not redis.call('ZSCORE', KEYS[2], ARGV[1]) then
  redis.call('HSETNX', KEYS[1], 'finalize_reason', ARGV[2])
  redis.call('HSETNX', KEYS[1], 'finalized_by', ARGV[3])
end
redis.call('PERSIST', KEYS[1])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('ZADD', KEYS[2], 'NX', string.format('%.0f', now), ARGV[1])
return 1
