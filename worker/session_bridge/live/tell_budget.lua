-- Tells recorders of a user's budget, unless they know a newer version.
-- KEYS: the user's hash. ARGV: version, budget.
local known = redis.call('HGET', KEYS[1], 'version')
if known and tonumber(known) > tonumber(ARGV[1]) then
  return 0
end
redis.call('HSET', KEYS[1], 'version', ARGV[1], 'budget', ARGV[2])
redis.call('PERSIST', KEYS[1])
return 1
