-- Lets go those fields of a live session which still hold what was read; the key goes with its last field.
-- KEYS: the live session, the ready set.
-- ARGV: call SID, the claim's score, then for each field its name, '=', '#' or '~', and its value, the value's SHA-1 or its
-- length.
-- Returns 'withdrawn' or 'requested', with nothing touched, if the request is no longer the one that was claimed.
local score = redis.call('ZSCORE', KEYS[2], ARGV[1])
if not score then
  return 'withdrawn'
end
if tonumber(score) ~= tonumber(ARGV[2]) then
  return 'requested'
end
for i = 3, #ARGV, 3 do
  local held
  if ARGV[i + 1] == '~' then
    held = tostring(redis.call('HSTRLEN', KEYS[1], ARGV[i]))
  else
    held = redis.call('HGET', KEYS[1], ARGV[i])
    if held and ARGV[i + 1] == '#' then
      held = redis.sha1hex(held)
    end
  end
  if held == ARGV[i + 2] then
    redis.call('HDEL', KEYS[1], ARGV[i])
  end
end
return 'released'
