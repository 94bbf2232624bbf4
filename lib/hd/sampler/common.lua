-- hd/sampler/common.lua: the loop that all samplers share.
-- A sampler works on x = x0 + sigma eps with denoise(x, sigma, cond) -> x0, in the type of x. It neither changes the
-- caller's x nor records gradients; what a step leaves behind is released with it.

local check = require "hd.check"
local core = require "hd.core"

local common = {}

---@class hd.SampleOptions
---@field cond? any                  handed to denoise
---@field rng? hd.Generator|hd.Generator[]  for samplers that add noise; a list: one for each sample, whose noise is
---  then the same in any batch; default: the default generator
---@field on_step? fun(step: table)  called with { i, x, sigma, denoised } after each call of denoise that starts a step

local SHARED = { { "cond", "any" }, { "rng", "any" }, { "on_step", "callable" } }

--- The shared options and a sampler's own, checked; so is what it calls.
---@param where string
---@param denoise function
---@param opts table?
---@param own table[]
---@return table
function common.options(where, denoise, opts, own)
  check.arg(where, "denoise", denoise, "callable")
  local spec = table.move(SHARED, 1, #SHARED, 1, {})
  return check.options(where, opts, table.move(own, 1, #own, #spec + 1, spec))
end

local function check_sigmas(where, sigmas)
  for i, sigma in ipairs(check.list(where, "sigmas", sigmas, "number")) do
    if i > 1 and not (sigma < sigmas[i - 1]) then
      check.fail(where, "sigmas must fall: got %g after %g, expected less", sigma, sigmas[i - 1])
    end
  end
  if #sigmas < 2 then check.fail(where, "sigmas has %d entries, expected at least 2", #sigmas) end
end

--- Noise of x's shape and type.
---@param x hd.Tensor
---@param rng? hd.Generator|hd.Generator[]  a list: one for each row
---@return hd.Tensor
function common.noise_like(x, rng)
  if type(rng) ~= "table" then return core.randn_like(x, { rng = rng }) end
  local rows = {}
  for i, own in ipairs(rng) do rows[i] = core.randn_like(x:narrow(1, i, 1), { rng = own }) end
  return core.op.cat(rows, 1)
end

-- In a coroutine a scope would not nest with those of whoever resumes it: there the collector takes what is left.
local NO_SCOPE = setmetatable({ keep = function(_, ...) return ... end }, { __close = function() end })

--- Run `step(x, sigma, next, i, scope) -> next x, denoised` from sigmas[1] to the last.
---@param where string
---@param x hd.Tensor
---@param sigmas number[]
---@param o table      checked options
---@param step function
---@return hd.Tensor
function common.loop(where, x, sigmas, o, step)
  check.arg(where, "x", x, "tensor")
  check_sigmas(where, sigmas)
  local _ <close> = core.no_grad()
  for i = 1, #sigmas - 1 do
    local scope <close> = coroutine.isyieldable() and NO_SCOPE or core.scope()
    local following, denoised = step(x, sigmas[i], sigmas[i + 1], i, scope)
    scope:keep(following)
    if o.on_step then
      scope:keep(denoised)
      o.on_step { i = i, x = x, sigma = sigmas[i], denoised = denoised }
    end
    x = following
  end
  return x
end

--- Standard deviations of the part of a step that goes on along eps and of the noise that is added anew: their squares
--- add up to next^2. eta 0 adds none, eta 1 as much as the reverse process of DDPM.
---@param sigma number
---@param next number
---@param eta number
---@return number down, number up
function common.split_noise(sigma, next, eta)
  local up = math.min(next, eta * math.sqrt(next * next * (sigma * sigma - next * next) / (sigma * sigma)))
  return math.sqrt(next * next - up * up), up
end

return common
