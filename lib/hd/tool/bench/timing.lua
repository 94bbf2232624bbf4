-- hd/tool/bench/timing.lua: how a result is taken. Three untimed steps, then steps one by one until there are at least
-- 10 and `seconds` have gone by, or there are at least 3 and `most` seconds have; reported are median and least.
-- Called by: the other files of the bench.

local core = require "hd.core"

local timing = {}

--- The middle of a list of numbers; the list is sorted.
---@param list number[]
---@return number
function timing.median(list)
  table.sort(list)
  local n = #list
  return n % 2 == 1 and list[n // 2 + 1] or 0.5 * (list[n // 2] + list[n // 2 + 1])
end

--- Rounded to so many digits after the point.
---@param value number?  nil stays nil
---@param digits integer
---@return number?
function timing.round(value, digits)
  return value and math.floor(value * 10 ^ digits + 0.5) / 10 ^ digits
end

--- The times of a step in seconds, in rising order.
---@param step fun(is_warmup: boolean)
---@param seconds number
---@param most number
---@param before? function  called before each step, untimed
---@return number[]
function timing.measure(step, seconds, most, before)
  before = before or function() end
  for _ = 1, 3 do
    before()
    step(true)
  end
  local times, start = {}, core.clock()
  while true do
    before()
    local from = core.clock()
    step(false)
    local now = core.clock()
    times[#times + 1] = now - from
    local total = now - start
    if #times >= 10 and total >= seconds or #times >= 3 and total >= most then break end
  end
  table.sort(times)
  return times
end

--- The fields that every record of a measured step has.
---@param record table     gets ms_median, ms_min, n
---@param times number[]   seconds
---@return table record
function timing.put(record, times)
  record.ms_median, record.n = timing.round(timing.median(times) * 1e3, 4), #times
  record.ms_min = timing.round(times[1] * 1e3, 4)
  return record
end

--- The largest resident set of this process in MiB, nil where the system does not tell.
---@return number?
function timing.peak_memory()
  local file <close> = io.open "/proc/self/status"
  local kib = file and file:read "a":match "VmHWM:%s*(%d+)"
  return kib and timing.round(kib / 1024, 1)
end

return timing
