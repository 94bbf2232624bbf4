-- hd/schedule/discrete.lua: schedules of T steps, given by beta_1 ... beta_T; equal to those of diffusers.
-- Step i (from 1) is time i / T; between the steps ln(sigma / alpha) is interpolated.

local class = require "hd.class"
local check = require "hd.check"
local core = require "hd.core"
local Schedule = require "hd.schedule.base".Schedule

---@class hd.schedule.Discrete : hd.schedule.Schedule
---@field T integer
---@field betas number[]
local Discrete = class("Discrete", Schedule)
Discrete.scale = "vp"

local function level_of(abar) return math.sqrt((1 - abar) / abar) end

-- From the running products of 1 - beta.
function Discrete:init(betas)
  self.T, self.betas, self.products, self.step_levels = #betas, betas, {}, {}
  local product = 1.0
  for i, beta in ipairs(betas) do
    product = product * (1 - beta)
    self.products[i] = product
    self.step_levels[i] = level_of(product)
  end
  self.t_min = 1 / self.T
end

--- The running products of 1 - beta: alpha squared of the steps.
---@return hd.Tensor  [T] f64
function Discrete:alphas_cumprod() return core.tensor(self.products, { dtype = "f64" }) end

function Discrete:base_level(t)
  local levels, position = self.step_levels, t * self.T
  local i = math.floor(position)
  if position <= 1 then return position * levels[1] end
  if i >= self.T then return levels[self.T] end
  local part = position - i
  if part == 0 then return levels[i] end
  return math.exp((1 - part) * math.log(levels[i]) + part * math.log(levels[i + 1]))
end

function Discrete:base_time(level)
  local levels, low, high = self.step_levels, 1, self.T
  if level <= levels[1] then return level / levels[1] / self.T end
  if level >= levels[high] then return 1.0 end
  while high - low > 1 do
    local middle = (low + high) // 2
    if levels[middle] <= level then low = middle else high = middle end
  end
  local a, b = math.log(levels[low]), math.log(levels[high])
  return (low + (math.log(level) - a) / (b - a)) / self.T
end

-- Networks are told the step counted from 0, as in diffusers.
function Discrete:network_time(t) return t * self.T - 1 end

function Discrete:quantile(u) return math.min(self.T, math.floor(u * self.T) + 1) / self.T end

local function round(x) return math.floor(x + 0.5) end

-- 1-based steps, falling; the three ways of diffusers
local SPACINGS = {
  trailing = function(T, n, i) return round(T - i * T / n) end,
  leading = function(T, n, i) return (n - 1 - i) * (T // n) + 1 end,
  linspace = function(T, n, i) return round((n - 1 - i) * (T - 1) / math.max(1, n - 1)) + 1 end,
}

--- Which of the T steps a sampler of fewer steps visits, falling, counted from 1.
---@param opts { steps: integer, spacing: string? }  "trailing" (default), "leading" or "linspace"
---@return integer[]
function Discrete:steps(opts)
  local o = check.options("steps", opts, { { "steps", "integer", required = true }, { "rho", "number" },
    { "spacing", { "trailing", "leading", "linspace" }, "trailing" } })
  if o.steps < 1 or o.steps > self.T then
    check.fail("steps", "steps is wrong: got %d, expected 1 to %d", o.steps, self.T)
  end
  local list = {}
  for i = 0, o.steps - 1 do list[i + 1] = math.tointeger(SPACINGS[o.spacing](self.T, o.steps, i)) end
  return list
end

function Discrete:levels(o)
  local list = {}
  for i, step in ipairs(self:steps(o)) do list[i] = self:level(step / self.T) end
  return list
end

local BETA_OPTIONS = { { "T", "integer", 1000 }, { "beta_start", "number", 1e-4 }, { "beta_end", "number", 0.02 } }

-- T values of fn at evenly spaced u in [0, 1]
local function spaced(T, fn)
  local list = {}
  for i = 1, T do list[i] = fn(T > 1 and (i - 1) / (T - 1) or 0) end
  return list
end

local M = { Discrete = Discrete }

--- beta in even steps. Source: Ho et al. 2020.
---@param opts? { T: integer, beta_start: number, beta_end: number }  1000, 1e-4, 0.02
---@return hd.schedule.Discrete
function M.linear(opts)
  local o = check.options("schedule.linear", opts, BETA_OPTIONS)
  return Discrete(spaced(o.T, function(u) return o.beta_start + u * (o.beta_end - o.beta_start) end))
end

--- sqrt(beta) in even steps. Source: Rombach et al. 2022.
---@param opts? { T: integer, beta_start: number, beta_end: number }  1000, 0.00085, 0.012
---@return hd.schedule.Discrete
function M.scaled_linear(opts)
  local o = check.options("schedule.scaled_linear", opts,
    { { "T", "integer", 1000 }, { "beta_start", "number", 0.00085 }, { "beta_end", "number", 0.012 } })
  local a, b = math.sqrt(o.beta_start), math.sqrt(o.beta_end)
  return Discrete(spaced(o.T, function(u) return (a + u * (b - a)) ^ 2 end))
end

--- alpha^2 along a squared cosine, with beta clipped. Source: Nichol and Dhariwal 2021.
---@param opts? { T: integer, s: number, max_beta: number }  1000, 0.008, 0.999
---@return hd.schedule.Discrete
function M.cosine(opts)
  local o = check.options("schedule.cosine", opts,
    { { "T", "integer", 1000 }, { "s", "number", 0.008 }, { "max_beta", "number", 0.999 } })
  local function abar(t) return math.cos((t + o.s) / (1 + o.s) * math.pi / 2) ^ 2 end
  local betas = {}
  for i = 1, o.T do betas[i] = math.min(1 - abar(i / o.T) / abar((i - 1) / o.T), o.max_beta) end
  return Discrete(betas)
end

--- beta along a sigmoid. Source: Xu et al. 2022 (GeoDiff).
---@param opts? { T: integer, beta_start: number, beta_end: number }  1000, 1e-4, 0.02
---@return hd.schedule.Discrete
function M.sigmoid(opts)
  local o = check.options("schedule.sigmoid", opts, BETA_OPTIONS)
  return Discrete(spaced(o.T, function(u)
    return (o.beta_end - o.beta_start) / (1 + math.exp(6 - 12 * u)) + o.beta_start
  end))
end

--- A discrete schedule rescaled so that its last step is pure noise. Source: Lin et al. 2024, algorithm 1.
--- Its last level is infinite: predict "v" and sample with `hd.sampler.discrete`, which works on x_t itself.
---@param schedule hd.schedule.Discrete
---@return hd.schedule.Discrete
function M.zero_terminal_snr(schedule)
  if not class.is(schedule, Discrete) then
    check.fail("schedule.zero_terminal_snr", "schedule is wrong: got %s, expected a discrete one", check.show(schedule))
  end
  local first, last = math.sqrt(schedule.products[1]), math.sqrt(schedule.products[schedule.T])
  local betas, before = {}, 1.0
  for i, product in ipairs(schedule.products) do
    local abar = ((math.sqrt(product) - last) * first / (first - last)) ^ 2
    betas[i] = 1 - abar / before
    before = abar
  end
  return Discrete(betas)
end

return M
