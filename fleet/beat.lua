-- Keeps this weir in the list of members, and tells it what it may have missed.
-- KEYS: the members, the epoch, the breakers
-- ARGV: this weir, member TTL us, 1 if this weir has known an epoch before, epoch TTL ms
-- Returns the number of members, then for each breaker that is open: version, microseconds left, event.
-- What was written by a script: a whole number that is exact in Lua. Anything else, nan and inf among it, counts as not there.
local function whole(text)
  local n = tonumber(text)
  return n and n >= 0 and n < 9007199254740992 and n or nil
end

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local ttl = tonumber(ARGV[2])

redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - ttl))
redis.call('ZREMRANGEBYSCORE', KEYS[1], string.format('%.0f', now + ttl), '+inf') -- from before the clock went back
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[1])
redis.call('PEXPIRE', KEYS[1], math.ceil(ttl / 500))

if redis.call('PEXPIRE', KEYS[2], ARGV[4]) == 0 then
  local born = ARGV[3] == '1' and now or 0
  redis.call('SET', KEYS[2], string.format('%.0f', born), 'PX', ARGV[4])
end

local reply = {redis.call('ZCARD', KEYS[1])}
local verdicts = redis.call('HGETALL', KEYS[3])
for i = 1, #verdicts, 2 do
  local version, till, event = string.match(verdicts[i + 1], '^(%d+):(%d+):(.*)$')
  version, till = whole(version), whole(till)
  local left = version and till and till - now or 0
  if left > 0 and left < 3600000000 then
    reply[#reply + 1] = version
    reply[#reply + 1] = left
    reply[#reply + 1] = event
  else
    redis.call('HDEL', KEYS[3], verdicts[i])
  end
end
return reply
