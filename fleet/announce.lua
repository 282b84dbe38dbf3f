-- Writes down an event, which all weirs are told with their next beat, and has that beat come at once.
-- KEYS: the breakers   ARGV: the channel, the resource, microseconds that the event holds, the event
-- Returns its version, which grows with each event of the resource.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local version = now
local last = redis.call('HGET', KEYS[1], ARGV[2])
if last then
  local before = tonumber(string.match(last, '^%d+'))
  if before and before < now + 3600000000 then -- else it is none of ours, or Redis' clock went far back
    version = math.max(now, before + 1)
  end
elseif redis.call('HLEN', KEYS[1]) >= 1024 then
  return redis.error_reply('ERR too many resources')
end
local stamp = string.format('%.0f', version)
redis.call('HSET', KEYS[1], ARGV[2], stamp .. ':' .. string.format('%.0f', now + ARGV[3]) .. ':' .. ARGV[4])
local keep = math.max(redis.call('PTTL', KEYS[1]), math.ceil(ARGV[3] / 1000))
redis.call('PEXPIRE', KEYS[1], keep)
redis.call('PUBLISH', ARGV[1], 'look') -- anybody may say that; what is so is in the hash
return version
