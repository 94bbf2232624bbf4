-- hd/schedule/base.lua: what all noise schedules share.
-- x_t = alpha x0 + sigma eps. A schedule is one falling function of time, its signal-to-noise ratio, and a rule that
-- fixes the scale: "vp" alpha^2 + sigma^2 = 1, "ve" alpha = 1, "flow" alpha + sigma = 1.
-- Time runs from 0 (data) to 1 (noise) in every schedule. "Level" below is sigma / alpha: the sigma of samplers, in
-- data units, as they work on x_t / alpha.

local class = require "hd.class"
local check = require "hd.check"
local core = require "hd.core"

---@class hd.schedule.Schedule
---@field scale string  "vp", "ve" or "flow"
local Schedule = class "Schedule"

-- alpha and sigma of a level, by the rule of scale
local SCALES = {
  vp = function(level)
    if level == math.huge then return 0.0, 1.0 end
    local alpha = 1 / math.sqrt(1 + level * level)
    return alpha, level * alpha
  end,
  ve = function(level) return 1.0, level end,
  flow = function(level)
    if level == math.huge then return 0.0, 1.0 end
    return 1 / (1 + level), level / (1 + level)
  end,
}

-- Apply fn to a number, or to each number of a list or 1-D tensor: then the results are f32 tensors [n], f64 for f64.
local function map(fn, t)
  if type(t) == "number" then return fn(t) end
  local dtype = check.is_tensor(t) and t:dtype() == "f64" and "f64" or "f32"
  local results = {}
  for i, value in ipairs(check.is_tensor(t) and t:totable() or t) do
    for k, r in ipairs { fn(value) } do
      results[k] = results[k] or {}
      results[k][i] = r
    end
  end
  for k, list in ipairs(results) do results[k] = core.tensor(list, { dtype = dtype }) end
  return table.unpack(results)
end

--- sigma / alpha at time t; each schedule has its own.
---@param t number  0 to 1
---@return number level
function Schedule:level(t)
  return (self.shift_factor or 1) * self:base_level(t)
end

--- The time at which sigma / alpha has the given value.
---@param level number
---@return number t
function Schedule:time_of(level)
  return self:base_time(level / (self.shift_factor or 1))
end

--- alpha and sigma of a level sigma / alpha.
---@param level number
---@return number alpha, number sigma
function Schedule:scales_of(level) return SCALES[self.scale](level) end

--- alpha and sigma at time t.
---@param t number|number[]|hd.Tensor  0 (data) to 1 (noise); for a list or 1-D tensor the results are tensors [n]
---@return number|hd.Tensor alpha, number|hd.Tensor sigma
function Schedule:alpha_sigma(t)
  return map(function(value) return SCALES[self.scale](self:level(value)) end, t)
end

--- ln(alpha^2 / sigma^2) at time t.
---@param t number|number[]|hd.Tensor
---@return number|hd.Tensor
function Schedule:logsnr(t)
  return map(function(value) return -2 * math.log(self:level(value)) end, t)
end

--- The time at which ln(alpha^2 / sigma^2) has the given value.
---@param logsnr number|number[]|hd.Tensor
---@return number|hd.Tensor t
function Schedule:time_of_logsnr(logsnr)
  return map(function(value) return self:time_of(math.exp(-0.5 * value)) end, logsnr)
end

--- What a network is told of time t: about -1000 to 1000, the range that its sines and cosines resolve.
---@param t number|number[]|hd.Tensor
---@return number|hd.Tensor
function Schedule:time_input(t)
  return map(function(value) return self:network_time(value) end, t)
end

function Schedule.network_time(_, t) return 1000 * t end

--- The same schedule with `factor` times as much noise at every time (log-SNR lowered by 2 ln factor).
--- For data with more neighbours that say the same (higher resolution, smooth levels) a factor over 1 fits.
--- Source: Hoogeboom et al. 2023.
---@param factor number
---@return hd.schedule.Schedule
function Schedule:shift(factor)
  check.arg("shift", "factor", factor, "number")
  local copy = {}
  for key, value in next, self do copy[key] = value end -- order free: a copy
  copy.shift_factor = (self.shift_factor or 1) * factor
  return setmetatable(copy, getmetatable(self))
end

-- N levels evenly spaced in level^(1/rho). Source: Karras et al. 2022, equation 5.
local function karras_grid(steps, smallest, largest, rho)
  local list, a, b = {}, largest ^ (1 / rho), smallest ^ (1 / rho)
  for i = 0, steps - 1 do list[i + 1] = (a + i / math.max(1, steps - 1) * (b - a)) ^ rho end
  return list
end

--- The levels for a sampler: steps + 1 falling numbers sigma / alpha, the last 0. A plain array, to be changed at will.
--- With `rho` the spacing is that of Karras et al. between the schedule's ends; without, each schedule's own.
---@param opts { steps: integer, rho: number?, spacing: string? }  spacing, of discrete schedules: "trailing", "leading"
---                                                               or "linspace", as in diffusers
---@return number[]
function Schedule:sigmas(opts)
  local o = check.options("sigmas", opts, { { "steps", "integer", required = true }, { "rho", "number" },
    { "spacing", { "trailing", "leading", "linspace" }, "trailing" } })
  if o.steps < 1 then check.fail("sigmas", "steps is wrong: got %d, expected at least 1", o.steps) end
  local smallest, largest = self:level(self.t_min), self:level(self.t_max)
  local list = o.rho and karras_grid(o.steps, smallest, largest, o.rho) or self:levels(o)
  list[#list + 1] = 0.0
  return list
end

-- Even steps in time from t_max to 0, 0 left out.
function Schedule:levels(o)
  local list = {}
  for i = 0, o.steps - 1 do list[i + 1] = self:level(self.t_max * (1 - i / o.steps)) end
  return list
end

--- The time below which a share u of the training's draws lies. Uniform but where the schedule says otherwise.
---@param u number  0 to 1
---@return number t
function Schedule:quantile(u) return self.t_min + (self.t_max - self.t_min) * u end

--- Draw n times for training; a plain list.
---@param n integer
---@param opts? { rng: hd.Generator?, stratified: boolean? }  stratified: one from each n-th of the distribution, in
---                                                           order, which makes the loss less noisy
---@return number[] t
function Schedule:draw(n, opts)
  local o = check.options("draw", opts, { { "rng", "any" }, { "stratified", "boolean", false } })
  local u = core.rand({ n }, { rng = o.rng, dtype = "f64" }):totable()
  for i = 1, n do
    if o.stratified then u[i] = (i - 1 + u[i]) / n end
    u[i] = self:quantile(u[i])
  end
  return u
end

Schedule.t_min, Schedule.t_max = 1e-3, 1.0

class.guard(Schedule, { "alpha_sigma", "logsnr", "time_of_logsnr", "time_input", "shift", "sigmas", "draw" })

return { Schedule = Schedule, map = map, karras_grid = karras_grid }
