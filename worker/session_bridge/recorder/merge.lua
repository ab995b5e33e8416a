-- Merges what was recorded some time ago: a value gives way to it only where it is older.
-- KEYS: the live session, the ready set.
-- ARGV: the call SID; its last activity, as recorded; the TTL in seconds; the drain asked for and the latest score of
-- a drain taken back, in epoch milliseconds or empty; why and by whom it is asked for; then name, value and time of
-- each state field.
-- Returns 1 if the drain was not asked for because somebody has been recording the call since. Needs times.lua before it.
local key, ready = KEYS[1], KEYS[2]
local sid, last, ttl, due, taken_back = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local reason, by = ARGV[6], ARGV[7]

local written = redis.call('HGET', key, 'last_activity_at')
-- A time that cannot be read is newer than everything: then only gaps are filled.
local known = written and (seconds(written) or math.huge) or -math.huge

for i = 8, #ARGV, 3 do
  if seconds(ARGV[i + 2]) >= known then
    redis.call('HSET', key, ARGV[i], ARGV[i + 1])
  else
    redis.call('HSETNX', key, ARGV[i], ARGV[i + 1])
  end
end
local current = seconds(last) >= known
if current then
  redis.call('HSET', key, 'last_activity_at', last)
end
if redis.call('TTL', key) ~= -1 or not redis.call('ZSCORE', ready, sid) then
  redis.call('EXPIRE', key, ttl)
end

if taken_back ~= '' then
  local score = redis.call('ZSCORE', ready, sid)
  if score and tonumber(score) <= tonumber(taken_back) then
    redis.call('ZREM', ready, sid)
  end
end
if due ~= '' then
  if not current then
    return 1
  end
  if reason ~= '' then
    redis.call('HSET', key, 'finalize_reason', reason)
  end
  redis.call('HSET', key, 'finalized_by', by)
  redis.call('PERSIST', key)
  redis.call('ZADD', ready, 'LT', due, sid)
end
return 0
