-- hd/sampler/ddim.lua: DDIM and Euler ancestral: one step, with more or less fresh noise.

local common = require "hd.sampler.common"

-- x0, plus eps and fresh noise in the proportion that eta sets.
local function sample(where, denoise, x, sigmas, o)
  return common.loop(where, x, sigmas, o, function(from, sigma, next)
    local denoised = denoise(from, sigma, o.cond)
    local down, up = common.split_noise(sigma, next, o.eta)
    local to = denoised + (from - denoised) * (down / sigma)
    if up > 0 then to = to + common.noise_like(to, o.rng) * up end
    return to, denoised
  end)
end

--- DDIM: deterministic with eta 0, the reverse process of DDPM with eta 1. One call of denoise a step.
--- It works on x_t / alpha, where it is the same for every schedule; `hd.sampler.discrete` works on x_t itself.
--- Source: Song et al. 2021.
---@param denoise fun(x: hd.Tensor, sigma: number, cond: any): hd.Tensor
---@param x hd.Tensor      noise scaled by sigmas[1]
---@param sigmas number[]  falling, in data units, last entry 0
---@param opts? hd.SampleOptions  and eta (0)
---@return hd.Tensor       the same shape and type
local function ddim(denoise, x, sigmas, opts)
  local o = common.options("sampler.ddim", denoise, opts, { { "eta", "number", 0 } })
  return sample("sampler.ddim", denoise, x, sigmas, o)
end

--- Euler steps with fresh noise after each; eta (1) sets how much. Source: k-diffusion, sample_euler_ancestral.
---@param denoise fun(x: hd.Tensor, sigma: number, cond: any): hd.Tensor
---@param x hd.Tensor      noise scaled by sigmas[1]
---@param sigmas number[]  falling, in data units, last entry 0
---@param opts? hd.SampleOptions  and eta (1)
---@return hd.Tensor       the same shape and type
local function ancestral(denoise, x, sigmas, opts)
  local o = common.options("sampler.ancestral", denoise, opts, { { "eta", "number", 1 } })
  return sample("sampler.ancestral", denoise, x, sigmas, o)
end

return { ddim = ddim, ancestral = ancestral }
