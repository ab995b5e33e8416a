-- Notes that a worker has this call in hand and no other, so that a death now is told from one in company.
-- KEYS: the queue, the in-hand hash.  ARGV: call SID, the claim's score, what the note adds to its count of claims.
-- Returns 1, or 0 if the claim is no longer ours.
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not score or tonumber(score) ~= tonumber(ARGV[2]) then
  return 0
end
redis.call('HINCRBY', KEYS[2], ARGV[1], ARGV[3])
return 1
