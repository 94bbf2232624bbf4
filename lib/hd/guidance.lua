-- hd/guidance.lua: steering a sampler: a denoiser made of two.

local check = require "hd.check"

local guidance = {}

--- x0 = weak + scale (strong - weak). With the same network without its condition as the weak one this is
--- classifier-free guidance (Ho and Salimans 2022), with a smaller or earlier network autoguidance (Karras et al.
--- 2024).
---@param strong fun(x: hd.Tensor, sigma: number, cond: any): hd.Tensor
---@param weak fun(x: hd.Tensor, sigma: number, cond: any): hd.Tensor
---@param opts? { scale: number, s_min: number, s_max: number }  scale 2; guided only where s_min <= sigma <= s_max
---@return fun(x: hd.Tensor, sigma: number, cond: any): hd.Tensor
function guidance.between(strong, weak, opts)
  local o = check.options("guidance.between", opts,
    { { "scale", "number", 2 }, { "s_min", "number", 0 }, { "s_max", "number", math.huge } })
  return function(x, sigma, cond)
    local good = strong(x, sigma, cond)
    if o.scale == 1 or sigma < o.s_min or sigma > o.s_max then return good end
    return good * o.scale + weak(x, sigma, cond) * (1 - o.scale)
  end
end

--- Classifier-free guidance: the weak one is the same denoiser without condition.
---@param denoise fun(x: hd.Tensor, sigma: number, cond: any): hd.Tensor
---@param opts? { scale: number, s_min: number, s_max: number }
---@return fun(x: hd.Tensor, sigma: number, cond: any): hd.Tensor
function guidance.classifier_free(denoise, opts)
  return guidance.between(denoise, function(x, sigma) return denoise(x, sigma, nil) end, opts)
end

return guidance
