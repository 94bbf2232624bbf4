-- hd/metrics/sliced.lua: the sliced Wasserstein distance. Calls: core.
-- Source: Rabin et al. 2011; Bonneel et al. 2015.

local core = require "hd.core"

local sliced = {}

--- x [n, ...] on `count` random directions: [n, count]. The directions depend on the seed and the number of elements
--- alone, so two sets of one shape meet the same ones.
---@param x hd.Tensor
---@param count integer
---@param seed integer
---@return hd.Tensor
function sliced.project(x, count, seed)
  local flat = x:reshape(x:size(1), -1)
  local directions = core.randn({ flat:size(2), count }, { rng = core.rng(seed, 1), dtype = flat:dtype() })
  return flat:matmul(directions / directions:norm({ 1 }, true))
end

-- Squared Wasserstein distance of order 2 of two rising lists: the integral of the squared difference of their
-- quantiles. Steps are counted in parts of 1 / (#a #b), so that nothing is rounded.
local function squared(a, b)
  local n, m, i, j, at, sum = #a, #b, 1, 1, 0, 0.0
  while i <= n and j <= m do
    local next_a, next_b, difference = i * m, j * n, a[i] - b[j]
    local up_to = next_a < next_b and next_a or next_b
    sum = sum + (up_to - at) * difference * difference
    at = up_to
    if next_a == up_to then i = i + 1 end
    if next_b == up_to then j = j + 1 end
  end
  return sum / (n * m)
end

-- The columns of [n, p] as rising lists.
local function sorted_columns(x)
  local columns = x:transpose(1, 2):totable()
  for _, column in ipairs(columns) do table.sort(column) end
  return columns
end

--- The distance of projected sets [n, p] and [m, p]: the root of the mean of the squared distances on each direction.
---@param a hd.Tensor
---@param b hd.Tensor
---@return number
function sliced.distance(a, b)
  local columns, others, sum = sorted_columns(a), sorted_columns(b), 0
  for p, column in ipairs(columns) do sum = sum + squared(column, others[p]) end
  return math.sqrt(sum / #columns)
end

return sliced
