-- hd/hierarchy/clock.lua: one clock per level, and the regimes as settings of them.
-- A global progress u falls from 1 (all noise) to 0 (done) and each level's time t with it: 1 noise, 0 clean. Every
-- regime but an own function is a window of progress for each level, in steps:
--
--     flat, joint, free   |=======|      cascade  |====|              staggered  |======|
--                         |=======|                    |====|                      |======|
--                         |=======|                         |====|                   |======|
--
-- A network is told the times of all levels that it sees, so training must show it those that sampling will.
-- Calls: core. Called by: hierarchy/init, train, run.

local check = require "hd.check"
local core = require "hd.core"

local clock = {}

--- The regimes by name.
clock.regimes = { "flat", "cascade", "joint", "staggered", "free" }

-- Windows ------------------------------------------------------------------------------------------------------------

-- start, duration and own steps of each level; the length of the whole. `steps`: own steps by name.
local function windows(levels, regime, steps, lag)
  local longest, total, list = 1, 0, {}
  for _, level in ipairs(levels) do longest = math.max(longest, steps[level.name]) end
  for i, level in ipairs(levels) do
    local own = steps[level.name]
    local w = { start = 0, duration = longest, steps = own }
    if regime == "cascade" then
      w.start, w.duration = total, own
    elseif regime == "staggered" then
      w.start = math.floor((i - 1) * lag * longest + 0.5)
    end
    total = math.max(total, w.start + w.duration)
    list[level.name] = w
  end
  return list, total
end

-- How many of its steps a level has made after q steps of the whole.
local function made(w, q) return math.max(0, math.min(w.steps, (q - w.start) * w.steps // w.duration)) end

-- A regime's clock as a function of progress, as users write theirs.
local function as_function(levels, regime, lag)
  local steps = {}
  for _, level in ipairs(levels) do steps[level.name] = level.steps end
  local list, total = windows(levels, regime, steps, lag)
  return function(u)
    local times = {}
    for _, level in ipairs(levels) do
      local w = list[level.name]
      times[level.name] = math.max(0.0, math.min(1.0, 1 - ((1 - u) * total - w.start) / w.duration))
    end
    return times
  end
end

-- A user's clock at u: a time for each level.
local function times_at(clocks, u, levels)
  local times = check.arg("clocks", "what it gave", clocks(u), "table")
  for _, level in ipairs(levels) do
    local t = times[level.name]
    if type(t) ~= "number" or not (t >= 0 and t <= 1) then
      check.fail("clocks", "the time of level '%s' at progress %g is wrong: got %s, expected 0 to 1", level.name, u,
        check.show(t))
    end
  end
  return times
end

-- Sampling -----------------------------------------------------------------------------------------------------------

-- The noise after `position` of a level's steps; between two of them even in sigma^(1/7), as the steps of EDM are.
local function noise_at(sigmas, position)
  local i = math.floor(position)
  local part = position - i
  if part < 1e-9 or i + 1 >= #sigmas then return sigmas[math.min(i + 1, #sigmas)] end
  if part > 1 - 1e-9 then return sigmas[i + 2] end
  local a, b = sigmas[i + 1], sigmas[i + 2]
  if b == 0 then return a * (1 - part) end
  return ((1 - part) * a ^ (1 / 7) + part * b ^ (1 / 7)) ^ 7
end

-- Own steps made by each level at every point of a user's clock.
local function function_positions(levels, clocks, total)
  local points, before = {}, nil
  for q = 0, total do
    local times, positions = times_at(clocks, 1 - q / total, levels), {}
    for _, level in ipairs(levels) do
      local t = times[level.name]
      if before and t > before[level.name] then
        check.fail("clocks", "the time of level '%s' rises: got %g at progress %g, expected at most %g", level.name, t,
          1 - q / total, before[level.name])
      end
      if q == total and t ~= 0 then
        check.fail("clocks", "level '%s' is not done at progress 0: got time %g, expected 0", level.name, t)
      end
      positions[level.name] = (1 - t) * total
    end
    points[q + 1], before = positions, times
  end
  return points
end

local function window_positions(levels, regime, steps, lag)
  local list, total = windows(levels, regime, steps, lag)
  local points = {}
  for q = 0, total do
    points[q + 1] = {}
    for name, w in next, list do points[q + 1][name] = made(w, q) end -- order free: separate keys
  end
  return points
end

local function most(steps)
  local n = 1
  for _, s in next, steps do n = math.max(n, s) end -- order free: a maximum
  return n
end

--- The noise of every level at each point of a run: points[q][name] = sigma, or the share of masks.
---@param levels hd.hierarchy.Level[]  those that run
---@param o table  regime or clocks, lag, steps { name = n }, grid: fun(level, steps): number[] falling to 0,
---  start { name = time from which a level starts }
---@return table<string, number>[]
function clock.path(levels, o)
  local positions = o.clocks and function_positions(levels, o.clocks, most(o.steps))
    or window_positions(levels, o.regime, o.steps, o.lag)
  local grids, points = {}, {}
  for _, level in ipairs(levels) do
    grids[level.name] = o.grid(level, o.clocks and most(o.steps) or o.steps[level.name])
  end
  for q, position in ipairs(positions) do
    local point, moved = {}, q == 1
    for _, level in ipairs(levels) do
      local name, grid = level.name, grids[level.name]
      local first = (1 - (o.start[name] or 1)) * (#grid - 1)
      point[name] = noise_at(grid, math.max(position[name], first))
      moved = moved or point[name] ~= points[#points][name]
    end
    if moved then points[#points + 1] = point end
  end
  return points
end

-- Training -----------------------------------------------------------------------------------------------------------

-- The progress at which a level's time is t; its clock falls from 1 to 0 with u.
local function progress_of(clocks, level, t)
  local low, high = 0.0, 1.0
  for _ = 1, 40 do
    local middle = 0.5 * (low + high)
    if clocks(middle)[level.name] < t then low = middle else high = middle end
  end
  return 0.5 * (low + high)
end

local function time_of(level, noise) return level.kind == "mask" and noise or level.schedule:time_of(noise) end

-- cascade: one strength of noise for all coarser levels, up to t_aug.
local function augmentation(others, n, o)
  local s, times = core.rand({ n }, { rng = o.rng, dtype = "f64" }):totable(), {}
  for _, other in ipairs(others) do
    local list = {}
    for i = 1, n do list[i] = time_of(other, s[i] * o.t_aug) end
    times[other.name] = list
  end
  return times
end

-- free: every time for itself; clean and pure noise, where clocks park a level, are shown a quarter of the time each.
local function independent(others, n, o)
  local times = {}
  for _, other in ipairs(others) do
    local list = core.rand({ n }, { rng = o.rng, dtype = "f64" }):totable()
    for i = 1, n do list[i] = math.max(0.0, math.min(1.0, 2 * list[i] - 0.5)) end
    times[other.name] = list
  end
  return times
end

--- The times of the levels that a network sees while its own level is at times t: { name = list }.
---@param self hd.hierarchy.Hierarchy
---@param level hd.hierarchy.Level
---@param t number[]  one for each sample
---@param others hd.hierarchy.Level[]  those of its context
---@param o table  regime or clocks, lag, t_aug, rng
---@return table<string, number[]>
function clock.companions(self, level, t, others, o)
  if #others == 0 then return {} end
  if not o.clocks and o.regime == "cascade" then return augmentation(others, #t, o) end
  if not o.clocks and o.regime == "free" then return independent(others, #t, o) end
  local clocks, times = o.clocks or as_function(self.levels, o.regime, o.lag), {}
  for _, other in ipairs(others) do times[other.name] = {} end
  for i, own in ipairs(t) do
    local now = times_at(clocks, progress_of(clocks, level, own), others)
    for _, other in ipairs(others) do times[other.name][i] = now[other.name] end
  end
  return times
end

return clock
