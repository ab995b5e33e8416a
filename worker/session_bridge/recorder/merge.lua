-- Merges what was recorded some time ago: a value gives way to it only where it is older.
-- KEYS: the live session, the ready set.
-- ARGV: the call SID; its last activity, as recorded; the TTL in seconds; the drain asked for and the latest score of
-- a drain taken back, in epoch milliseconds or empty; why and by whom it is asked for; then name, value and time of
-- each state field.
-- Returns 1 if the drain was not asked for because somebody has been recording the call since.
local key, ready = KEYS[1], KEYS[2]
local sid, last, ttl, due, taken_back = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local reason, by = ARGV[6], ARGV[7]

-- Howard Hinnant's days_from_civil, https://howardhinnant.github.io/date_algorithms.html
local function days(year, month, day)
  if month <= 2 then year = year - 1 end
  local era = math.floor(year / 400)
  local of_era = year - era * 400
  local of_year = math.floor((153 * ((month + 9) % 12) + 2) / 5) + day - 1
  return era * 146097 + of_era * 365 + math.floor(of_era / 4) - math.floor(of_era / 100) + of_year - 719468
end

-- Epoch seconds of ISO 8601 text or of an epoch in seconds or milliseconds; nil if it is neither.
local function seconds(text)
  local number = tonumber(text)
  if number then
    if math.abs(number) >= 1e11 then return number / 1000 end
    return number
  end
  local year, month, day, hour, minute, rest =
    string.match(text, '^(%d%d%d%d)%-(%d%d)%-(%d%d)[T ](%d%d):(%d%d)(.*)$')
  if not year then return nil end
  local second, zone = string.match(rest, '^:(%d%d%.?%d*)(.*)$')
  local offset = 0
  local sign, hours, minutes = string.match(zone or rest, '^([+-])(%d%d):?(%d%d)')
  if sign then
    offset = tonumber(hours) * 3600 + tonumber(minutes) * 60
    if sign == '-' then offset = -offset end
  end
  return days(tonumber(year), tonumber(month), tonumber(day)) * 86400
    + tonumber(hour) * 3600 + tonumber(minute) * 60 + (tonumber(second) or 0) - offset
end

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
