-- hd/hierarchy/tokens.lua: drawing a level of kind mask: from all masks to tokens. Called by: hierarchy/sample, run,
-- estimate. Absorbing-state diffusion (Sahoo et al. 2024, MDLM): at time t a token is masked with chance t.

local core = require "hd.core"
local draw = require "hd.hierarchy.draw"

local tokens = {}

--- All positions masked: vocab + 1.
---@param level hd.hierarchy.Level
---@param n integer
---@param length integer
---@return hd.Tensor  i64 [n, length]
function tokens.masks(level, n, length) return core.full({ n, length }, level.vocab + 1, { dtype = "i64" }) end

--- z with each token masked with chance t.
---@param level hd.hierarchy.Level
---@param z hd.Tensor           [n, length]
---@param t number
---@param generators hd.Generator[]
---@return hd.Tensor
function tokens.hide(level, z, t, generators)
  local hidden = draw.uniform(generators, { z:size(2) }):lt(t)
  return core.op.where(hidden, tokens.masks(level, z:size(1), z:size(2)), z)
end

-- Tokens [n, length] drawn from logits [n, length, vocab] by the Gumbel-max trick.
local function choose(logits, generators)
  local u = draw.uniform(generators, { logits:size(2), logits:size(3) }):clamp(1e-9, 1)
  return (logits - (-(u:log())):log()):argmax(3)
end

--- Ancestral sampling, a sampler as those of hd.sampler: in the step from time t to s each mask is lifted with chance
--- (t - s) / t.
---@param estimate fun(z: hd.Tensor, t: number): hd.Tensor  logits [n, length, vocab]
---@param z hd.Tensor      [n, length]
---@param times number[]   falling shares of masks
---@param opts { cond: hd.hierarchy.Level, rng: hd.Generator[], on_step: function }
---@return hd.Tensor
function tokens.sample(estimate, z, times, opts)
  local mask = opts.cond.vocab + 1
  for i = 1, #times - 1 do
    local t, s = times[i], times[i + 1]
    local logits = estimate(z, t)
    local lifted = draw.uniform(opts.rng, { z:size(2) }):lt((t - s) / t):logical_and(z:eq(mask))
    local following = core.op.where(lifted, choose(logits, opts.rng), z)
    opts.on_step { i = i, x = z, sigma = t, denoised = following }
    z = following
  end
  return z
end

return tokens
