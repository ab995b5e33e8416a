-- Takes due members of a queue under a lease, by Redis's own clock.
-- Of much that is due it takes half, so that the last batches of a backlog are small, and several workers end together
-- (guided self-scheduling: Polychronopoulos and Kuck, 1987).
-- KEYS: the queue, the in-hand hash.
-- ARGV: how many at most, the lease in milliseconds, what the keys of sessions begin with, and 'hold' if they are to be put
-- on hold: what waits to be drained must not expire while it waits, whatever else is away.
-- Returns the lease's score, milliseconds until the next member falls due ('' if none ever will), then for each member
-- taken its call SID, how often it has been claimed without an outcome, this claim included, the score it had, and the
-- bytes of memory that its session takes, 0 if it is gone.
--
-- A request's score is a whole millisecond; a lease's has a fraction, so that no request can be taken for a lease. Only
-- a lease that ran out tells of a worker that died: a request over a lease is news, however often it comes.
local time = redis.call('TIME')
local seconds, micros = tonumber(time[1]), tonumber(time[2])
local now = seconds * 1000 + math.floor(micros / 1000)
local lease = string.format('%.0f.%03d', now + tonumber(ARGV[2]), 1 + micros % 999)

local due = string.format('%.0f', now)
local half = math.ceil(redis.call('ZCOUNT', KEYS[1], '-inf', due) / 2)
local most = math.min(tonumber(ARGV[1]), math.max(half, 25))
local taken = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', due, 'WITHSCORES', 'LIMIT', 0, most)
local reply = {lease, ''}
for i = 1, #taken, 2 do
  local sid, score = taken[i], taken[i + 1]
  redis.call('ZADD', KEYS[1], lease, sid)
  local session = ARGV[3] .. sid
  if ARGV[4] == 'hold' and redis.call('TYPE', session).ok == 'hash' then
    redis.call('PERSIST', session)
  end
  if tonumber(score) % 1 > 0 then
    redis.call('HINCRBY', KEYS[2], sid, 1)
  end
  reply[#reply + 1] = sid
  reply[#reply + 1] = 1 + (redis.call('HGET', KEYS[2], sid) or 0)
  reply[#reply + 1] = score
  reply[#reply + 1] = redis.call('MEMORY', 'USAGE', session, 'SAMPLES', 0) or 0
end
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if first[2] and tonumber(first[2]) < math.huge then
  reply[2] = string.format('%.0f', math.max(0, math.ceil(tonumber(first[2]) - now)))
end
return reply
