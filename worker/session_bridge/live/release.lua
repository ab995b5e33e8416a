-- Lets a live session go, whole, if it still holds what was read and its request still is the one that was claimed.
-- KEYS: the live session, the ready set, the in-hand hash, the attempts hash, what a provider was
-- asked of it.
-- ARGV: call SID, the claim's score, a separator, the SHA-1 of every field and value read, joined by that separator; it is
-- '' where the session was watched instead since it was read. The separator is random, so that no writer can arrange other
-- fields to the same text.
local score = redis.call('ZSCORE', KEYS[2], ARGV[1])
if not score then
  redis.call('HDEL', KEYS[3], ARGV[1])
  return 'withdrawn'
end
if tonumber(score) ~= tonumber(ARGV[2]) then
  return 'requested'
end
if ARGV[4] ~= '' and redis.sha1hex(table.concat(redis.call('HGETALL', KEYS[1]), ARGV[3])) ~= ARGV[4] then
  return 'changed'
end
redis.call('UNLINK', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[3], ARGV[1])
redis.call('HDEL', KEYS[4], ARGV[1])
redis.call('UNLINK', KEYS[5])
return 'released'
