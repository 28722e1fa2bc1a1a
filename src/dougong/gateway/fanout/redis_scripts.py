"""What Redis does in one go: number, keep and tell a batch of messages; say what a batch of topics missed.

Of each topic there are two keys: a counter, and a list of the last messages. A counter starts from the time in
microseconds, so that numbers never come again when it was forgotten and begun anew, and so that a number says from when
it is: who was here less than the counter's life ago and finds none has missed nothing. All keys are under the `life` of
one server process: what a restart or a fail-over may have lost can thus not be taken for complete. The scripts are told
that life by their text, and so run on no other server than the one they were loaded into.

A message is 16 digits of its number (zeros: not kept), `*` when it is the counter's first, a letter for slow readers,
then the data.
"""

from __future__ import annotations

__all__ = ["fetch_script", "publish_script"]

# Never backwards, whatever is done to the machine's clock: positions and first numbers are drawn from it.
_CLOCK = """
local life = '%s'
local function clock(key)
  local time = redis.call('TIME')
  local now = time[1] * 1000000 + time[2]
  local last = tonumber(redis.call('GET', key) or '0')
  if now <= last then now = last + 1 end
  redis.call('SET', key, string.format('%%.0f', now))
  return now
end
"""

# KEYS: the clock, then counter and list of each ('' for what is not to be kept); ARGV: how many are kept of a topic,
# for how long, for how long counters are, then channel, letter and data of each. Answers the numbers.
_PUBLISH = """
local most, age_ms, counter_ms = -tonumber(ARGV[1]), ARGV[2], ARGV[3]
local numbers = {}
for i = 1, (#KEYS - 1) / 2 do
  local counter, kept = KEYS[2 * i], KEYS[2 * i + 1]
  local channel, letter, data = ARGV[3 * i + 1], ARGV[3 * i + 2], ARGV[3 * i + 3]
  local number, first = 0, ' '
  if counter ~= '' then
    number = redis.call('INCR', counter)
    if number == 1 then
      number = clock(KEYS[1])
      first = '*'
      redis.call('SET', counter, string.format('%.0f', number))
      redis.call('DEL', kept)
    end
    redis.call('PEXPIRE', counter, counter_ms)
  end
  local message = string.format('%016.0f', number) .. first .. letter .. data
  if number > 0 then
    redis.call('RPUSH', kept, message)
    redis.call('LTRIM', kept, most, -1)
    redis.call('PEXPIRE', kept, age_ms)
  end
  redis.call('PUBLISH', channel, message)
  numbers[i] = string.format('%.0f', number)
end
return numbers
"""

# KEYS: the clock, since when it runs, then counter and list of each; ARGV: how long counters are kept for sure, then
# the last number of each ('' to be told the position only). Of each: whether that is all, the position, the messages.
_FETCH = """
local now = clock(KEYS[1])
local begun = tonumber(redis.call('GET', KEYS[2]) or '0')
if begun == 0 then
  begun = now
  redis.call('SET', KEYS[2], string.format('%.0f', now))
end
local surely_since = math.max(begun, now - tonumber(ARGV[1]) * 900)  -- 1000 but for doubts about clocks
local answers = {}
for i = 1, (#KEYS - 2) / 2 do
  local asked = ARGV[i + 1]
  local last = redis.call('GET', KEYS[2 * i + 1])
  local answer = {1, last or string.format('%.0f', now)}
  if asked ~= '' and asked ~= last then
    local after = tonumber(asked)
    local recent = after >= surely_since
    if not last then
      answer[1] = recent and 1 or 0
    elseif after > tonumber(last) then
      answer[1] = 0
    else
      local messages = redis.call('LRANGE', KEYS[2 * i + 2], 0, -1)
      local text = string.format('%016.0f', after)
      local first = messages[1]
      local whole = first and (tonumber(first:sub(1, 16)) <= after + 1 or (recent and first:sub(17, 17) == '*'))
      answer[1] = whole and 1 or 0
      for _, message in ipairs(messages) do
        if message:sub(1, 16) > text then answer[#answer + 1] = message end
      end
    end
  end
  answers[i] = answer
end
return answers
"""


def publish_script(life: str) -> str:
    return _CLOCK % life + _PUBLISH


def fetch_script(life: str) -> str:
    return _CLOCK % life + _FETCH
