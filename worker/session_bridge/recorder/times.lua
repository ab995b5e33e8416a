-- What a moment's text means; put before the scripts that compare moments.

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
