-- hd/sampler/euler.lua

local common = require "hd.sampler.common"

--- First-order (Euler) sampler, deterministic; one call of denoise a step.
---@param denoise fun(x: hd.Tensor, sigma: number, cond: any): hd.Tensor
---@param x hd.Tensor      noise scaled by sigmas[1]
---@param sigmas number[]  falling, in data units, last entry 0
---@param opts? hd.SampleOptions
---@return hd.Tensor       the same shape and type
local function euler(denoise, x, sigmas, opts)
  local o = common.options("sampler.euler", denoise, opts, {})
  return common.loop("sampler.euler", x, sigmas, o, function(from, sigma, next)
    local denoised = denoise(from, sigma, o.cond)
    return from + (from - denoised) * ((next - sigma) / sigma), denoised
  end)
end

return euler
