-- hd/sampler/dpmpp_2m.lua

local common = require "hd.sampler.common"

--- DPM-Solver++ (2M): second order from the estimate of the step before; one call of denoise a step, deterministic.
--- Source: Lu et al. 2022.
---@param denoise fun(x: hd.Tensor, sigma: number, cond: any): hd.Tensor
---@param x hd.Tensor      noise scaled by sigmas[1]
---@param sigmas number[]  falling, in data units, last entry 0
---@param opts? hd.SampleOptions
---@return hd.Tensor       the same shape and type
local function dpmpp_2m(denoise, x, sigmas, opts)
  local o = common.options("sampler.dpmpp_2m", denoise, opts, {})
  local before = nil -- the last step's estimate, extrapolated from
  return common.loop("sampler.dpmpp_2m", x, sigmas, o, function(from, sigma, next, i, scope)
    local denoised = denoise(from, sigma, o.cond)
    local target = denoised
    if before and next > 0 then
      local r = math.log(sigmas[i - 1] / sigma) / math.log(sigma / next) -- ratio of the two steps in ln(1 / sigma)
      target = denoised * (1 + 0.5 / r) - before * (0.5 / r)
    end
    before = denoised
    scope:keep(before)
    return from * (next / sigma) + target * (1 - next / sigma), denoised
  end)
end

return dpmpp_2m
