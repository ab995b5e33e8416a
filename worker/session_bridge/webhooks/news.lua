-- Writes what a callback said of a call to its live session. Not arrival but the times, the sequence and the end decide,
-- by the rules with which `drain/combine.py` joins what comes later still: keep the two alike. Needs times.lua before it.
-- KEYS: the live session, the ready set, the opened set.
-- ARGV: the call SID; the TTL in seconds; '1' if the call is over, else ''; why and by whom its drain is asked for; the
-- channel that wakes the workers; the words for an end, for an end that was only inferred and for what comes before an
-- end, each set between blanks; then name and value of each field.
-- Returns 1.
local key, ready, opened = KEYS[1], KEYS[2], KEYS[3]
local sid, ttl, over, reason, by, wake = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local ends, provisional, before_ends = ARGV[7], ARGV[8], ARGV[9]
local first = 10

local given = {}
for i = first, #ARGV, 2 do
  given[ARGV[i]] = ARGV[i + 1]
end

local new = redis.call('EXISTS', key) == 0
local time = redis.call('TIME')
local now = string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))

local written = redis.call('HGET', key, 'last_activity_at')
local known = written and seconds(written)
local said = given['last_activity_at'] and seconds(given['last_activity_at'])
local stale = known and said and said < known

local function among(word, words)
  word = string.gsub(string.lower(word), '[- ]', '_')
  return string.find(words, ' ' .. word .. ' ', 1, true) ~= nil
end

-- Whether the status given holds against the one that is written.
local function status_holds()
  local old = redis.call('HGET', key, 'status')
  if not old or not among(old, ends .. provisional .. before_ends) then return true end
  local was_over, is_over = among(old, ends), among(given['status'], ends)
  if among(old, provisional) then return not stale or is_over end
  if was_over ~= is_over then return is_over end
  local old_by = redis.call('HGET', key, 'status_by')
  if not old_by or old_by == 'writer' or old_by == 'inferred' then return true end
  local before, after = tonumber(redis.call('HGET', key, 'status_sequence') or ''), tonumber(given['status_sequence'] or '')
  if before and after and before ~= after then return after > before end
  return not stale
end

local function revision(event)
  return tonumber(string.match(event, '^{"revision":(%d+)') or '')
end

local in_status = { status = true, status_by = true, status_sequence = true }
if given['status'] and status_holds() then
  redis.call('HSET', key, 'status', given['status'], 'status_by', given['status_by'])
  if given['status_sequence'] then
    redis.call('HSET', key, 'status_sequence', given['status_sequence'])
  else
    redis.call('HDEL', key, 'status_sequence')
  end
end

for i = first, #ARGV, 2 do
  local name, value = ARGV[i], ARGV[i + 1]
  if not in_status[name] then
    local newer = not stale
    if string.find(name, ':', 1, true) then
      local old = redis.call('HGET', key, name)
      local before, after = old and revision(old), revision(value)
      if before and after and before ~= after then newer = after > before end
    end
    if newer then
      redis.call('HSET', key, name, value)
    else
      redis.call('HSETNX', key, name, value)
    end
  end
end

if new then
  redis.call('ZADD', opened, 'NX', now, sid)
end
if over ~= '' then
  redis.call('HSET', key, 'finalize_reason', reason, 'finalized_by', by)
  redis.call('PERSIST', key)
  redis.call('ZADD', ready, 'LT', now, sid)
  -- A user without rights to the channel wakes nobody; workers look by themselves too.
  redis.pcall('PUBLISH', wake, now)
elseif redis.call('TTL', key) ~= -1 or not redis.call('ZSCORE', ready, sid) then
  redis.call('EXPIRE', key, ttl)
end
return 1
