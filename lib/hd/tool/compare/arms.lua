-- hd/tool/compare/arms.lua: the hierarchy of a data set and, for each arm, networks with as many parameters as the flat
-- arm has, and what a training step and a sample cost. Called by: compare.lua.

local hd = require "hd"
local core = require "hd.core"

local arms = {}

--- The hierarchy of a set of square pictures with 1 or 3 channels, checked on it and with its statistics.
---@param set hd.data.Set
---@param opts { predict: string, weight: string? }  weight: "uniform" or "min_snr", in the losses of all arms
---@return hd.hierarchy.Hierarchy? H  nil and a message where the pictures are others
---@return string? message
function arms.hierarchy(set, opts)
  local c, h, w = set.x:size(2), set.x:size(3), set.x:size(4)
  if h ~= w or h % 4 ~= 0 or (c ~= 1 and c ~= 3) then
    return nil, ("the pictures are [%d,%d,%d]: expected squares with 1 or 3 channels and a side that 4 divides"):format(
      c, h, w)
  end
  local H = hd.hierarchy.images { size = h, channels = c, predict = opts.predict }
  local weight = opts.weight == "min_snr" and hd.schedule.weight.min_snr {} or nil
  for _, level in ipairs(H.levels) do level.loss_weight = weight end
  H:check(set)
  return H:fit_stats(set)
end

-- Parameters ------------------------------------------------------------------------------------------------------

local LARGEST = 128 -- width of a network
local NEAR = 0.02 -- a share of the target that does not matter

-- For each level the widths that its network may have, multiples of `grain`, with its parameters: { { width, count },
-- ... }. One that declares a width of its own (a factor on the flat arm's, `declared`) has no other. Networks that
-- alone are larger than the target are not made.
local function candidates(H, regime, declared, classes, target, grain)
  local lists = {}
  for i, level in ipairs(H.levels) do
    local own = declared and level.width ~= 1 and H:width_of(level.name, declared)
    lists[i] = {}
    for width = own or 8, own or LARGEST, grain do
      local models = H:models { regime = regime, width = { [level.name] = width }, levels = { level.name },
        classes = classes }
      local count = models:num_parameters()
      table.insert(lists[i], { width, count })
      if count > target then break end
    end
  end
  return lists
end

-- How unlike the widths are of those levels that have a choice: a ratio of at least 1.
local function unevenness(lists, choice)
  local low, high = math.huge, 0
  for i, entry in ipairs(choice) do
    if #lists[i] > 1 then low, high = math.min(low, entry[1]), math.max(high, entry[1]) end
  end
  return high > 0 and high / low or 1
end

--- Widths of the levels' networks with about `target` parameters together: within 2 % those most alike, else the
--- nearest. Every choice is tried.
---@param lists table[]  lists[i]: { { width, parameters }, ... } of level i
---@param target integer
---@return integer[] widths  of each level
---@return number miss       how far off the sum is, as a share of the target
function arms.choose(lists, target)
  local best, best_miss, best_uneven
  local choice = {}
  local function consider(sum)
    local miss, uneven = math.abs(sum - target) / target, unevenness(lists, choice)
    local near, better = miss <= NEAR, not best
    if best and near ~= (best_miss <= NEAR) then
      better = near
    elseif best and near then
      better = uneven < best_uneven or (uneven == best_uneven and miss < best_miss)
    elseif best then
      better = miss < best_miss
    end
    if not better then return end
    best, best_miss, best_uneven = {}, miss, uneven
    for i, entry in ipairs(choice) do best[i] = entry[1] end
  end
  local function try(i, sum)
    if i > #lists then return consider(sum) end
    for _, entry in ipairs(lists[i]) do
      choice[i] = entry
      try(i + 1, sum + entry[2])
    end
  end
  try(1, 0)
  return best, best_miss
end

--- Options of H:models for an arm with `target` parameters: multiples of 8, which convolutions like best, or of 4
--- where these are too coarse; where neither will do, the levels' own widths do not count.
---@param H hd.hierarchy.Hierarchy
---@param regime string
---@param width integer  of the flat arm
---@param target integer
---@param classes integer?  how many labels the networks are told
---@return table
function arms.options(H, regime, width, target, classes)
  if regime == "flat" then return { regime = regime, width = width, classes = classes } end
  local by_level = {}
  for _, try in ipairs { { 8, width }, { 4, width }, { 4 } } do
    local widths, miss = arms.choose(candidates(H, regime, try[2], classes, target, try[1]), target)
    for i, level in ipairs(H.levels) do by_level[level.name] = widths[i] end
    if miss <= NEAR then break end
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
