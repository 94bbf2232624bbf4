-- hd/tool/compare/arms.lua: the hierarchy of a data set and, for each arm, networks with as many parameters as the flat
-- arm has, and what a training step and a sample cost. Called by: compare.lua.

local hd = require "hd"
local core = require "hd.core"

local arms = {}
local haar = hd.hierarchy.haar

-- Grey pictures: shapes are the low band after two Haar steps, textures the details, seen by their network as the
-- picture that they make alone (as in hd.hierarchy.images).
local function grey(size, opts)
  local function split(x)
    local low, details = haar.split(x, 2)
    return { shapes = low, textures = hd.cat({ details[1], haar.fold(details[2], 2) }, 2) }
  end
  local function join(z)
    return haar.join(z.shapes, { z.textures:narrow(2, 1, 3), haar.unfold(z.textures:narrow(2, 4, 12), 2) })
  end
  local frame = {
    to = function(z)
      local s = z:shape()
      return join { shapes = hd.zeros({ s[1], 1, s[3], s[4] }, { dtype = z:dtype() }), textures = z }
    end,
    from = function(x) return split(x).textures end,
  }
  return hd.hierarchy.new {
    name = "grey", split = split, join = join, shape = { 1, size, size }, range = { -1, 1 }, t_aug_sample = 0.1,
    levels = {
      { name = "shapes", predict = opts.predict, schedule = hd.schedule.karras { p_mean = 0.4, p_std = 1.5 } },
      { name = "textures", predict = opts.predict, frame = frame },
    },
  }
end

--- The hierarchy of a set of square pictures with 1 or 3 channels, checked on it and with its statistics.
---@param set hd.data.Set
---@param opts { predict: string }
---@return hd.hierarchy.Hierarchy? H  nil and a message where the pictures are others
---@return string? message
function arms.hierarchy(set, opts)
  local c, h, w = set.x:size(2), set.x:size(3), set.x:size(4)
  if h ~= w or h % 4 ~= 0 or (c ~= 1 and c ~= 3) then
    return nil, ("the pictures are [%d,%d,%d]: expected squares with 1 or 3 channels and a side that 4 divides"):format(
      c, h, w)
  end
  local H = c == 3 and hd.hierarchy.images { size = h, predict = opts.predict } or grey(h, opts)
  H:check(set)
  return H:fit_stats(set)
end

-- Parameters ------------------------------------------------------------------------------------------------------

local LARGEST = 128 -- width of a network

-- Widths that are multiples of `grain`, and the parameters of each level's network by width: counts[k][i], level i with
-- widths[k]. Networks that are far too large are not made.
local function level_counts(H, regime, classes, target, grain)
  local widths, counts = {}, {}
  for width = 8, LARGEST, grain do
    local models, row, least = H:models { regime = regime, width = width, classes = classes }, {}, math.huge
    for i, level in ipairs(H.levels) do
      row[i] = models:net(level.name):num_parameters()
      least = math.min(least, row[i])
    end
    table.insert(widths, width)
    table.insert(counts, row)
    if least > target then break end
  end
  return widths, counts
end

-- How unlike the widths are: a ratio of at least 1.
local function unevenness(widths, choice)
  local low, high = math.huge, 0
  for _, k in ipairs(choice) do low, high = math.min(low, widths[k]), math.max(high, widths[k]) end
  return high / low
end

--- Widths of the levels' networks with about `target` parameters together: within 1 % those most alike, else the
--- nearest. Every choice is tried.
---@param widths integer[]
---@param counts integer[][]  counts[k][i]: parameters of level i with widths[k]
---@param target integer
---@return integer[] choice  the number of the width of each level
---@return number miss       how far off the sum is, as a share of the target
function arms.choose(widths, counts, target)
  local best, best_miss, best_uneven
  local choice = {}
  local function consider(sum)
    local miss, uneven = math.abs(sum - target) / target, unevenness(widths, choice)
    local near, better = miss <= 0.01, not best
    if best and near ~= (best_miss <= 0.01) then
      better = near
    elseif best and near then
      better = uneven < best_uneven or (uneven == best_uneven and miss < best_miss)
    elseif best then
      better = miss < best_miss
    end
    if better then best, best_miss, best_uneven = table.move(choice, 1, #choice, 1, {}), miss, uneven end
  end
  local function try(i, sum)
    if i > #counts[1] then return consider(sum) end
    for k = 1, #counts do
      choice[i] = k
      try(i + 1, sum + counts[k][i])
    end
  end
  try(1, 0)
  return best, best_miss
end

--- Options of H:models for an arm with `target` parameters: multiples of 8, which convolutions like best, or of 4 where
--- these are too coarse.
---@param H hd.hierarchy.Hierarchy
---@param regime string
---@param width integer  of the flat arm
---@param target integer
---@param classes integer?  how many labels the networks are told
---@return table
function arms.options(H, regime, width, target, classes)
  if regime == "flat" then return { regime = regime, width = width, classes = classes } end
  local by_level = {}
  for _, grain in ipairs { 8, 4 } do
    local widths, counts = level_counts(H, regime, classes, target, grain)
    local choice, miss = arms.choose(widths, counts, target)
    for i, level in ipairs(H.levels) do by_level[level.name] = widths[choice[i]] end
    if miss <= 0.015 then break end
  end
  return { regime = regime, width = by_level, classes = classes }
end

-- Cost ------------------------------------------------------------------------------------------------------------

-- FLOPs of the products in fn(), by the direct formula.
local function flops_of(fn)
  local report, sum = hd.profile(fn), 0
  for _, row in ipairs(report.rows) do sum = sum + row.flops end
  return sum
end

--- FLOPs of a training step on a batch.
---@param H hd.hierarchy.Hierarchy
---@param models hd.hierarchy.Models
---@param x hd.Tensor
---@param labels hd.Tensor?
---@return number
function arms.step_flops(H, models, x, labels)
  local before = core.rng_state()
  local flops = flops_of(function()
    local loss = H:loss(models, x, labels and { labels = labels })
    loss:backward()
  end)
  models:zero_grad()
  core.set_rng_state(before)
  return flops
end

-- FLOPs and calls of networks for one sample with so many steps.
local function sample_cost(H, models, steps, opts)
  local calls, sampling = 0, { steps = steps }
  for key, value in next, opts do sampling[key] = value end -- order free: separate keys
  local counting = setmetatable({ net = function(_, name)
    calls = calls + 1
    return models:net(name)
  end }, { __index = models })
  local flops = flops_of(function() H:sample(counting, 1, sampling) end)
  return flops, calls
end

--- What sampling costs as a function of the number of steps, on a line through two measured points.
---@param H hd.hierarchy.Hierarchy
---@param models hd.hierarchy.Models
---@param opts? table  further options of H:sample
---@return table  flops(steps), calls(steps) of one sample, and steps(flops), the number that comes nearest
function arms.sampling(H, models, opts)
  local f2, c2 = sample_cost(H, models, 2, opts or {})
  local f3, c3 = sample_cost(H, models, 3, opts or {})
  return {
    flops = function(steps) return f2 + (f3 - f2) * (steps - 2) end,
    calls = function(steps) return c2 + (c3 - c2) * (steps - 2) end,
    steps = function(flops) return math.max(1, math.floor(2 + (flops - f2) / (f3 - f2) + 0.5)) end,
  }
end

return arms
