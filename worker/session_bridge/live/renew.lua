-- Prolongs leases that are still ours.
-- KEYS: the queue.  ARGV: the lease in milliseconds, then call SID and score of each.
-- Returns the new score, then 1 for each lease prolonged and 0 for each that is no longer ours.
local time = redis.call('TIME')
local micros = tonumber(time[2])
local now = tonumber(time[1]) * 1000 + math.floor(micros / 1000)
local lease = string.format('%.0f.%03d', now + tonumber(ARGV[1]), 1 + micros % 999)
local reply = {lease}
for i = 2, #ARGV, 2 do
  local score = redis.call('ZSCORE', KEYS[1], ARGV[i])
  local ours = score and tonumber(score) == tonumber(ARGV[i + 1])
  if ours then
    redis.call('ZADD', KEYS[1], lease, ARGV[i])
  end
  reply[#reply + 1] = ours and 1 or 0
end
return reply
