-- hd/schedule/continuous.lua: schedules given by a formula in t.

local class = require "hd.class"
local check = require "hd.check"
local base = require "hd.schedule.base"
local Schedule = base.Schedule

local M = {}

-- The value below which a share u of the normal distribution lies, to 5e-4: enough to draw noise levels for training.
-- Source: Abramowitz and Stegun 26.2.23.
local function normal_quantile(u)
  if u <= 0 then return -8.0 elseif u >= 1 then return 8.0 end
  local tail = math.min(u, 1 - u)
  local t = math.sqrt(-2 * math.log(tail))
  local z = t - (2.515517 + t * (0.802853 + t * 0.010328)) / (1 + t * (1.432788 + t * (0.189269 + t * 0.001308)))
  return u < 0.5 and -z or z
end

-- EDM -------------------------------------------------------------------------------------------------------------

---@class hd.schedule.Karras : hd.schedule.Schedule
local Karras = class("Karras", Schedule)
Karras.scale, Karras.t_min = "ve", 0.0

function Karras:init(o)
  self.o = o
  self.top, self.bottom = o.sigma_max ^ (1 / o.rho), o.sigma_min ^ (1 / o.rho)
end

function Karras:base_level(t) return (self.bottom + t * (self.top - self.bottom)) ^ self.o.rho end

function Karras:base_time(level)
  return math.max(0.0, math.min(1.0, (level ^ (1 / self.o.rho) - self.bottom) / (self.top - self.bottom)))
end

-- c_noise = ln(sigma) / 4, in thousandths
function Karras:network_time(t) return 250 * math.log(self:level(t)) end

-- ln(sigma) is normal in training
function Karras:quantile(u)
  return self:time_of(math.exp(self.o.p_mean + self.o.p_std * normal_quantile(u)) * (self.shift_factor or 1))
end

function Karras:levels(o)
  return base.karras_grid(o.steps, self:level(0), self:level(1), self.o.rho)
end

--- The schedule of EDM: alpha = 1, sigma^(1/rho) in even steps; ln(sigma) is normal in training. Karras et al. 2022.
---@param opts? { sigma_min: number, sigma_max: number, rho: number, p_mean: number, p_std: number }
---             0.002, 80, 7, -1.2, 1.2
---@return hd.schedule.Karras
function M.karras(opts)
  return Karras(check.options("schedule.karras", opts, {
    { "sigma_min", "number", 0.002 }, { "sigma_max", "number", 80 }, { "rho", "number", 7 },
    { "p_mean", "number", -1.2 }, { "p_std", "number", 1.2 },
  }))
end

--- The same as karras.
M.edm = M.karras

-- Variance preserving, continuous ---------------------------------------------------------------------------------

---@class hd.schedule.VP : hd.schedule.Schedule
local VP = class("VP", Schedule)
VP.scale = "vp"

function VP:init(o) self.o = o end

-- ln(1 / alpha^2) = beta_min t + (beta_max - beta_min) t^2 / 2
function VP:base_level(t)
  local o = self.o
  return math.sqrt(math.exp(o.beta_min * t + 0.5 * (o.beta_max - o.beta_min) * t * t) - 1)
end

function VP:base_time(level)
  local o, v = self.o, math.log(1 + level * level)
  local d = o.beta_max - o.beta_min
  return math.min(1.0, 2 * v / (math.sqrt(o.beta_min ^ 2 + 2 * d * v) + o.beta_min))
end

--- The continuous form of `linear`. Source: Song et al. 2021.
---@param opts? { beta_min: number, beta_max: number }  0.1, 20
---@return hd.schedule.VP
function M.vp(opts)
  return VP(check.options("schedule.vp", opts, { { "beta_min", "number", 0.1 }, { "beta_max", "number", 20 } }))
end

-- Variance exploding ----------------------------------------------------------------------------------------------

---@class hd.schedule.VE : hd.schedule.Schedule
local VE = class("VE", Schedule)
VE.scale, VE.t_min = "ve", 0.0

function VE:init(o) self.o = o end

function VE:base_level(t) return self.o.sigma_min * (self.o.sigma_max / self.o.sigma_min) ^ t end

function VE:base_time(level)
  local t = math.log(level / self.o.sigma_min) / math.log(self.o.sigma_max / self.o.sigma_min)
  return math.max(0.0, math.min(1.0, t))
end

function VE:network_time(t) return 250 * math.log(self:level(t)) end

--- alpha = 1, sigma in geometric steps. Source: Song et al. 2021.
---@param opts? { sigma_min: number, sigma_max: number }  0.02, 100
---@return hd.schedule.VE
function M.ve(opts)
  return VE(check.options("schedule.ve", opts, { { "sigma_min", "number", 0.02 }, { "sigma_max", "number", 100 } }))
end

-- Flow matching ---------------------------------------------------------------------------------------------------

---@class hd.schedule.Flow : hd.schedule.Schedule
local Flow = class("Flow", Schedule)
-- Samplers work on x_t / alpha, so they start just before t = 1, where alpha is 0.
Flow.scale, Flow.t_max = "flow", 0.999

function Flow:init(o) self.shift_factor = o.shift end

function Flow.base_level(_, t) return t < 1 and t / (1 - t) or math.huge end

function Flow.base_time(_, level) return level < math.huge and level / (1 + level) or 1.0 end

-- The network is told sigma, as in diffusers.
function Flow:network_time(t)
  local _, sigma = self:scales_of(self:level(t))
  return 1000 * sigma
end

--- Rectified flow: x_t = (1 - s) x0 + s eps with s = shift t / (1 + (shift - 1) t). Sources: Liu et al. 2023, Lipman et
--- al. 2023; the shift: Esser et al. 2024.
---@param opts? { shift: number }  1
---@return hd.schedule.Flow
function M.flow(opts)
  return Flow(check.options("schedule.flow", opts, { { "shift", "number", 1 } }))
end

return M
