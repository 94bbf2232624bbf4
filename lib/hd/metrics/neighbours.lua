-- hd/metrics/neighbours.lua: what nearest neighbours say: precision and recall, distances to a training set.
-- Calls: core.

local core = require "hd.core"

local neighbours = {}
local CHUNK = 512 -- rows at once

-- Squared distances of the rows of a to those of b: [n, m]. other = b's columns [d, m], square = their squares [m].
local function squared(a, other, square)
  return (a:square():sum({ 2 }, true) + square - a:matmul(other) * 2):clamp(0)
end

-- fn(distances [rows, m], first) for blocks of rows of a; its results joined.
local function by_blocks(a, b, fn)
  local parts, other, square = {}, b:transpose(1, 2):contiguous(), b:square():sum(2)
  for first = 1, a:size(1), CHUNK do
    local rows = a:narrow(1, first, math.min(CHUNK, a:size(1) - first + 1))
    parts[#parts + 1] = fn(squared(rows, other, square), first)
  end
  return core.op.cat(parts, 1)
end

-- d [rows, m] with infinity at column index[i] of row i.
local function without(d, index)
  local columns = core.arange(1, d:size(2)):view(1, -1)
  return core.op.where(columns:eq(index:view(-1, 1)), math.huge, d)
end

-- The squared distance of each row to its k-th neighbour in the same set: [n].
local function radii(x, k)
  return by_blocks(x, x, function(d, first)
    d = without(d, core.arange(first, first + d:size(1) - 1))
    for _ = 2, k do d = without(d, d:argmin(2)) end
    return d:amin(2)
  end)
end

-- The share of the rows of a that lie within the k-th neighbour's distance of some row of b.
local function covered(a, b, radius)
  return by_blocks(a, b, function(d) return d:le(radius):any(2) end):to "f64":mean():item()
end

--- Precision and recall, { precision, recall }.
---@param real hd.Tensor  [n, d]
---@param made hd.Tensor  [m, d]
---@param k integer
---@return number[]
function neighbours.precision_recall(real, made, k)
  real, made = real:to "f64", made:to "f64"
  return { covered(made, real, radii(real, k)), covered(real, made, radii(made, k)) }
end

--- The distance of each x to the nearest element of a set, per element of the data: the root of the mean square
--- difference. Where `same`, x is the set itself and each one leaves itself out.
---@param set hd.Tensor  [m, ...]
---@param x hd.Tensor    [n, ...]
---@param same boolean
---@return hd.Tensor     [n]
function neighbours.nearest(set, x, same)
  local a, b = x:reshape(x:size(1), -1), set:reshape(set:size(1), -1)
  local index = by_blocks(a, b, function(d, first)
    if same then d = without(d, core.arange(first, first + d:size(1) - 1)) end
    return d:argmin(2)
  end)
  -- the sum of squares above loses small distances to rounding: measured again
  local parts = {}
  for first = 1, a:size(1), CHUNK do
    local n = math.min(CHUNK, a:size(1) - first + 1)
    local near = b:index_select(1, index:narrow(1, first, n))
    parts[#parts + 1] = (a:narrow(1, first, n) - near):square():mean(2):sqrt()
  end
  return core.op.cat(parts, 1)
end

return neighbours
