-- hd/sampler/heun.lua

local check = require "hd.check"
local common = require "hd.sampler.common"

local OPTIONS = {
  { "churn", "number", 0 }, { "s_min", "number", 0 }, { "s_max", "number", math.huge }, { "s_noise", "number", 1 },
}

--- Second-order (Heun) sampler, deterministic when opts.churn is 0; two calls of denoise a step, one in the last.
--- Source: Karras et al. 2022, algorithm 2.
---@param denoise fun(x: hd.Tensor, sigma: number, cond: any): hd.Tensor
---@param x hd.Tensor      noise scaled by sigmas[1]
---@param sigmas number[]  falling, in data units, last entry 0
---@param opts? hd.SampleOptions  and churn (0), s_min, s_max, s_noise
---@return hd.Tensor       the same shape and type
local function heun(denoise, x, sigmas, opts)
  local o = common.options("sampler.heun", denoise, opts, OPTIONS)
  check.list("sampler.heun", "sigmas", sigmas, "number")
  local most = math.min(o.churn / (#sigmas - 1), math.sqrt(2) - 1)
  return common.loop("sampler.heun", x, sigmas, o, function(start, sigma, next)
    local gamma = o.s_min <= sigma and sigma <= o.s_max and most or 0
    local raised, from = sigma * (1 + gamma), start
    if gamma > 0 then
      from = start + common.noise_like(start, o.rng) * (o.s_noise * math.sqrt(raised ^ 2 - sigma ^ 2))
    end
    local denoised = denoise(from, raised, o.cond)
    local slope = (from - denoised) / raised
    local to = from + slope * (next - raised)
    if next > 0 then
      local second = (to - denoise(to, next, o.cond)) / next
      to = from + (slope + second) * (0.5 * (next - raised))
    end
    return to, denoised
  end)
end

return heun
