-- The book of one endpoint for a fleet: the rules of book.py, with permits as leases of workers.
-- KEYS: the book; who holds how much; until when each worker's word counts.
-- ARGV: what the worker tells and asks, as JSON. Times are milliseconds by this server's clock.
local book, held, alive = KEYS[1], KEYS[2], KEYS[3]
local a = cjson.decode(ARGV[1])
local now = a.now
if now == nil or now == cjson.null then
  local time = redis.call('TIME')
  now = time[1] * 1000 + time[2] / 1000
end

local function number(key, field, default)
  return tonumber(redis.call('HGET', key, field)) or default
end
-- Redis would write 1.7e+12 for a time.
local function exact(value)
  return string.format('%.6f', value)
end

-- Who holds what. A key that was evicted alone would leave sums that nothing mends: begin anew.
-- When somebody knew the book before, others hold permits that it has forgotten: let them say so.
if redis.call('HLEN', held) ~= redis.call('ZCARD', alive) + 2 then
  redis.call('DEL', held, alive)
  if a.known then redis.call('HSET', book, 'lost_at', exact(now)) end
end
local grace = math.max(0, number(book, 'lost_at', -math.huge) + a.grace - now)
local total, slots = number(held, '=held', 0), number(held, '=slots', 0)
local function forget(worker)
  local h, s = string.match(redis.call('HGET', held, worker) or '', '^(%d+) (%d+)$')
  if h then
    total, slots = total - tonumber(h), slots - tonumber(s)
    redis.call('HDEL', held, worker)
  end
  redis.call('ZREM', alive, worker)
end
for _, worker in ipairs(redis.call('ZRANGEBYSCORE', alive, '-inf', exact(now))) do
  forget(worker)
end
forget(a.worker)
total, slots = total + a.held, slots + a.slots

-- How many at once.
local most = slots
if a.most > 0 then most = a.most end
local known = number(book, 'limit', most)
local limit = math.min(most, known)
local threshold = math.min(most, number(book, 'threshold', most))
for _ = 1, a.answered do
  if limit < threshold then
    limit = math.min(2 * limit, threshold)
  elseif 2 * total >= limit then
    limit = limit + math.max(1, most / 16) / limit
  end
  limit = math.min(limit, most)
end
if a.cut_age >= 0 and now - a.cut_age > number(book, 'cut_at', -1) then
  limit = math.max(1, math.min(limit, total - a.held + a.cut_held) / 2)
  threshold = limit
  redis.call('HSET', book, 'cut_at', exact(now))
end
if a.restart then
  threshold = math.max(threshold, limit)
  limit = 1
end

-- How long nobody may ask.
local pause_until = number(book, 'pause_until', 0)
if a.pause > 0 then
  pause_until = math.max(pause_until, now + a.pause)
end
local pause = math.max(0, pause_until - now)

-- Requests and tokens a minute.
local function full(per_ms)
  return math.max(2, per_ms * 1000)
end
local function filled(name, rate)
  if rate <= 0 then return number(book, name, 1) end
  local elapsed = math.max(0, now - number(book, name .. '_at', now))
  local per_ms = rate / 60000
  return math.min(number(book, name, 1) + elapsed * per_ms, full(per_ms))
end
local function bucket(name, set, learnt, remaining, give)
  local rate = set
  if rate <= 0 then rate = number(book, name .. '_learnt', 0) end
  -- What has gathered came at the rate that was known then.
  local level = filled(name, rate)
  if learnt > 0 then
    redis.call('HSET', book, name .. '_learnt', exact(learnt))
    if set <= 0 then rate = learnt end
    if remaining >= 0 then level = math.min(level, remaining) end
  end
  if rate <= 0 then return {rate = 0} end
  local per_ms = rate / 60000
  level = math.min(level + give, full(per_ms))
  return {rate = rate, level = level, per_ms = per_ms}
end
local requests = bucket('requests', a.rpm, a.learnt_rpm, a.left_requests, a.unused)
local tokens = bucket('tokens', a.tpm, a.learnt_tpm, a.left_tokens, -a.used)

-- What is granted; further requests of running jobs first.
local tiny = 1e-6
local function need(one, size)
  return math.min(size, full(one.per_ms) / 2)
end
local function room_in(one, size)
  if one.rate <= 0 then return math.huge end
  local least = need(one, size)
  if one.level < least - tiny then return 0 end
  return 1 + math.floor((one.level - least + tiny) / size)
end
local room = math.min(room_in(requests, 1), room_in(tokens, a.size))
local free = math.max(0, math.floor(limit) - total)
local again, claims = 0, 0
if pause <= 0 then
  again = math.min(a.again, room)
  if grace <= 0 then claims = math.min(a.wanted, free, room - again) end
end
total = total + claims
local wait = -1
if again + claims < a.again + math.min(a.wanted, free) then wait = math.max(pause, grace) end
local function take(name, one, size)
  if one.rate > 0 then
    one.level = one.level - size * (again + claims)
    redis.call('HSET', book, name, exact(one.level), name .. '_at', exact(now))
    if wait >= 0 then
      wait = math.max(wait, (need(one, size) - one.level) / one.per_ms)
    end
  end
end
take('requests', requests, 1)
take('tokens', tokens, a.size)

-- What stays.
if a.lease > 0 then
  redis.call('HSET', held, a.worker, string.format('%d %d', a.held + claims, a.slots))
  redis.call('ZADD', alive, exact(now + a.lease), a.worker)
end
redis.call('HSET', held, '=held', exact(total), '=slots', exact(slots))
if limit >= most then
  -- What was learnt above the slots that live just now is true again when others come.
  if known <= most then redis.call('HDEL', book, 'limit', 'threshold') end
else
  redis.call('HSET', book, 'limit', exact(limit), 'threshold', exact(threshold))
end
redis.call('HSET', book, 'pause_until', exact(pause_until))
for _, key in ipairs(KEYS) do
  redis.call('PEXPIRE', key, a.keep)
end
return cjson.encode({
  again = again, claims = claims, limit = limit, most = most, in_flight = total,
  pause = pause, wait = wait, rpm = requests.rate, tpm = tokens.rate,
})
