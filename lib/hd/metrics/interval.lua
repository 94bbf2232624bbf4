-- hd/metrics/interval.lua: intervals by resampling. Calls: core.
-- Halves are drawn without replacement, not whole sets with it: a sample that is there twice would be its own nearest
-- neighbour and would move every distance. A statistic of random halves spreads as much as that of wholes does.
-- Source: the half-sample bootstrap, McCarthy 1969; the delete-d jackknife, Shao and Wu 1989.

local core = require "hd.core"

local interval = {}
local NORMAL = 1.959963984540054 -- 95 % of a normal distribution lie within so many standard deviations

-- A random half of the rows of x.
local function half(x, seed)
  local order, n = core.permutation(x:size(1), seed), x:size(1) // 2
  return x:index_select(1, core.tensor(table.move(order, 1, n, 1, {}), { dtype = "i64" }))
end

local function spread(values)
  local mean, sum = 0, 0
  for _, v in ipairs(values) do mean = mean + v / #values end
  for _, v in ipairs(values) do sum = sum + (v - mean) ^ 2 end
  return math.sqrt(sum / (#values - 1))
end

-- A number as { number }, a list as it is.
local function list_of(value) return type(value) == "table" and value or { value } end

--- The 95 % interval of statistic(table.unpack(sets)) about its value: { low =, high = }, of lists where it is a list.
---@param statistic fun(...): number|number[]
---@param sets hd.Tensor[]  [n, ...] each, of independent samples
---@param value number|number[]
---@param count integer  resamples
---@param seed integer
---@param paired? boolean  the i-th rows of all sets belong together
---@return table
function interval.of(statistic, sets, value, count, seed, paired)
  local values, found = list_of(value), {}
  for k = 1, #values do found[k] = {} end
  for r = 1, count do
    local _ <close> = core.scope()
    local halves = {}
    for i, x in ipairs(sets) do halves[i] = half(x, (seed * 1000 + r) * 10 + (paired and 1 or i)) end
    for k, v in ipairs(list_of(statistic(table.unpack(halves)))) do found[k][r] = v end
  end
  local low, high = {}, {}
  for k, v in ipairs(values) do
    local reach = NORMAL * spread(found[k])
    low[k], high[k] = v - reach, v + reach
  end
  if type(value) == "table" then return { low = low, high = high } end
  return { low = low[1], high = high[1] }
end

--- Wilson's 95 % interval of a share, `right` of `asked` (Wilson 1927).
---@param right integer
---@param asked integer
---@return table
function interval.of_share(right, asked)
  local p, z = right / asked, NORMAL * NORMAL / asked
  local centre, reach = (p + z / 2) / (1 + z), math.sqrt(p * (1 - p) * z + z * z / 4) / (1 + z)
  return { low = centre - reach, high = centre + reach }
end

-- 97.5 % of Student's t distribution with so many degrees of freedom lie below this.
-- Source: Abramowitz and Stegun 1964, 26.7.5; exact forms for 1 and 2.
local function student(degrees)
  if degrees == 1 then return 12.706204736 end
  if degrees == 2 then return 4.302652730 end
  local z, sum = NORMAL, NORMAL
  sum = sum + (z ^ 3 + z) / (4 * degrees)
  sum = sum + (5 * z ^ 5 + 16 * z ^ 3 + 3 * z) / (96 * degrees ^ 2)
  sum = sum + (3 * z ^ 7 + 19 * z ^ 5 + 17 * z ^ 3 - 15 * z) / (384 * degrees ^ 3)
  return sum + (79 * z ^ 9 + 776 * z ^ 7 + 1482 * z ^ 5 - 1920 * z ^ 3 - 945 * z) / (92160 * degrees ^ 4)
end

--- The mean of independent numbers and its 95 % interval by Student's t.
---@param values number[]  at least two
---@return table  mean, low, high
function interval.of_mean(values)
  local sum = 0
  for _, v in ipairs(values) do sum = sum + v end
  local mean, reach = sum / #values, student(#values - 1) * spread(values) / math.sqrt(#values)
  return { mean = mean, low = mean - reach, high = mean + reach }
end

return interval
