-- Leases tokens of the bucket that all weirs share.
-- KEYS: the bucket, the epoch
-- ARGV: tokens per second, burst, tokens wanted, this weir's share (0..1], 1 if this weir has known an epoch before, epoch TTL ms
-- Returns the tokens granted and the microseconds until there will be one more.
--
-- The bucket is one number: tat, the microsecond at which it will be full again if nobody takes any more (GCRA). hw is the
-- highest time seen, which guards against Redis' clock going back. Whole numbers below 2^53 are exact in Lua.
-- What was written by a script: a whole number that is exact in Lua. Anything else, nan and inf among it, counts as not there.
local function whole(text)
  local n = tonumber(text)
  return n and n >= 0 and n < 9007199254740992 and n or nil
end
-- The reply to a command; a key of a type that no script here makes is removed.
local function ask(command, key, ...)
  local reply = redis.pcall(command, key, ...)
  if type(reply) == 'table' and reply.err then
    redis.call('DEL', key)
    return redis.call(command, key, ...)
  end
  return reply
end

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local rate, burst, want, share = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local tau = math.ceil(burst * 1000000 / rate)

local known = ask('HMGET', KEYS[1], 'tat', 'hw')
local tat, hw = whole(known[1]), whole(known[2])
if tat and hw and hw - now > 5000000 then
  tat = math.min(tat, now + tau) -- the clock went far back: from here on it counts
elseif hw then
  now = math.max(now, hw)
end

if not tat then
  -- A bucket at rest is forgotten, and full. Only where Redis has lost what we know it knew, all buckets start empty.
  local born = whole(ask('GET', KEYS[2]))
  if not born then
    born = ARGV[5] == '1' and now or 0
    redis.call('SET', KEYS[2], string.format('%.0f', born), 'PX', ARGV[6])
  end
  tat = born + tau
end
local base = math.max(math.min(tat, now + tau), now)

local available = math.max(0, math.floor((now + tau - base) * rate / 1000000))
if available > 0 and available < burst / 2 then
  available = math.min(available, math.max(1, math.ceil(2 * available * share))) -- the tail is not for one weir alone
end
local granted = math.min(want, available)
tat = base + math.ceil(granted * 1000000 / rate)

redis.call('HSET', KEYS[1], 'tat', string.format('%.0f', tat), 'hw', string.format('%.0f', now))
redis.call('PEXPIRE', KEYS[1], math.ceil((tat - now) / 1000) + 10000)
return {granted, math.max(0, tat + math.ceil(1000000 / rate) - tau - now)}
