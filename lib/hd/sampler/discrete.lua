-- hd/sampler/discrete.lua: sampling with the steps of a discrete schedule, on x_t = alpha x0 + sigma eps itself.
-- The one place that counts from 0: times are those of diffusers, 0 to T - 1, because its networks are told them.

local check = require "hd.check"
local class = require "hd.class"
local core = require "hd.core"
local common = require "hd.sampler.common"
local prediction = require "hd.schedule.prediction"
local Schedule = require "hd.schedule.base".Schedule

local discrete = {}

--- The times that a sampler of fewer steps visits: falling, 0-based, as `scheduler.timesteps` in diffusers.
---@param schedule hd.schedule.Discrete
---@param opts { steps: integer, spacing: string? }  "trailing" (default), "leading" or "linspace"
---@return integer[]
function discrete.timesteps(schedule, opts)
  if not class.is(schedule, Schedule) or not schedule.steps then
    check.fail("sampler.discrete", "schedule is wrong: got %s, expected a discrete one (hd.schedule.linear …)",
      check.show(schedule))
  end
  local list = schedule:steps(opts)
  for i, step in ipairs(list) do list[i] = step - 1 end
  return list
end

local OPTIONS = {
  { "steps", "integer", required = true }, { "spacing", "string", "trailing" },
  { "predict", prediction.kinds, "eps" }, { "eta", "number", 0 }, { "clip", "number" },
}

-- One step from alpha^2 = abar to alpha^2 = following.
local function step(net, x, time, abar, following, o)
  local alpha, sigma = math.sqrt(abar), math.sqrt(1 - abar)
  local x0, eps = prediction.solve(o.predict, net(x, time, o.cond), x, alpha, sigma)
  if o.clip then x0 = x0:clamp_(-o.clip, o.clip) end
  local up = 0
  if o.eta > 0 and following < 1 then
    up = o.eta * math.sqrt((1 - following) / (1 - abar) * (1 - abar / following))
  end
  local to = x0 * math.sqrt(following) + eps * math.sqrt(math.max(0, 1 - following - up * up))
  if up > 0 then to = to + common.noise_like(to, o.rng) * up end
  return to, x0
end

--- DDIM on x_t itself; DDPM with eta 1. Source: Song et al. 2021.
---@param net fun(x: hd.Tensor, t: integer, cond: any): hd.Tensor  told 0-based times
---@param x hd.Tensor  standard normal noise
---@param schedule hd.schedule.Discrete
---@param opts hd.SampleOptions  and steps, spacing, predict ("eps"), eta (0), clip: limit of |x0|
---@return hd.Tensor
function discrete.ddim(net, x, schedule, opts)
  local o = common.options("sampler.discrete.ddim", net, opts, OPTIONS)
  check.arg("sampler.discrete.ddim", "x", x, "tensor")
  local times, products = discrete.timesteps(schedule, { steps = o.steps, spacing = o.spacing }), schedule.products
  local _ <close> = core.no_grad()
  for i, time in ipairs(times) do
    local scope <close> = core.scope()
    local following = times[i + 1] and products[times[i + 1] + 1] or 1.0
    local to, x0 = step(net, x, time, products[time + 1], following, o)
    scope:keep(to)
    if o.on_step then
      scope:keep(x0)
      o.on_step { i = i, x = x, time = time, denoised = x0 }
    end
    x = to
  end
  return x
end

return discrete
