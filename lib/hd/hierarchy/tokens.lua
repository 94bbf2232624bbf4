-- hd/hierarchy/tokens.lua: drawing a level of kind mask: from all masks to tokens. Absorbing-state diffusion (Sahoo et
-- al. 2024, MDLM): at time t a token is masked with chance t. Called by: hierarchy/init, train, sample, run, estimate.

local check = require "hd.check"
local core = require "hd.core"
local draw = require "hd.hierarchy.draw"

local tokens = {}

--- The share of masks at time t, and how much the cross-entropy at that time counts in the bound: m'(t) / m(t).
---@param level hd.hierarchy.Level
---@param t number  above 0, up to 1
---@return number share
---@return number weight
function tokens.share(level, t)
  if level.rate == "linear" then return t, 1 / t end
  local angle = 0.5 * math.pi * t
  return math.sin(angle), 0.5 * math.pi * math.cos(angle) / math.sin(angle)
end

--- Shares of masks in `steps` steps, from 1 to 0.
---@param level hd.hierarchy.Level
---@param steps integer
---@return number[]
function tokens.shares(level, steps)
  local list = {}
  for i = 0, steps - 1 do list[i + 1] = tokens.share(level, 1 - i / steps) end
  list[steps + 1] = 0.0
  return list
end

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

-- Tokens [n, length] drawn from logits [n, length, vocab] by the Gumbel-max trick; temperature 0 takes the likeliest.
local function choose(logits, generators, temperature)
  if temperature == 0 then return logits:argmax(3) end
  local u = draw.uniform(generators, { logits:size(2), logits:size(3) }):clamp(1e-9, 1)
  return (logits * (1 / temperature) - (-(u:log())):log()):argmax(3)
end

-- Which masks are lifted in the step from share t to s: each with chance (t - s) / t.
local function by_chance(masked, _, t, s, generators)
  return draw.uniform(generators, { masked:size(2) }):lt((t - s) / t):logical_and(masked)
end

-- The surest ones: as many in each sample as bring its masks down to the share s of those at the beginning.
local function by_confidence(masked, logits, t, s)
  local sure = core.op.where(masked, logits:amax(3) - logits:logsumexp(3), core.full({}, -math.huge))
  local lifted, values, left = masked:clone(), sure:totable(), masked:sum(2):totable()
  for i, row in ipairs(values) do
    local order, keep = {}, math.floor(left[i] * s / t + 0.5)
    for j, value in ipairs(row) do
      if value > -math.huge then order[#order + 1] = j end
    end
    table.sort(order, function(a, b)
      if row[a] ~= row[b] then return row[a] > row[b] end
      return a < b
    end)
    for k = #order - keep + 1, #order do lifted:set(i, order[k], false) end
  end
  return lifted
end

local is_sampler = setmetatable({}, { __mode = "k" })

--- Is this a sampler of tokens?
---@param fn any
---@return boolean
function tokens.is_sampler(fn) return is_sampler[fn] == true end

--- A sampler for levels of kind mask, for a level's `sampler` or H:sample's. In a step from the share of masks t to s,
--- order "chance" lifts each mask with chance (t - s) / t (ancestral, the default), "confidence" those whose token
--- is surest, as in MaskGIT (Chang et al. 2022). cached: a network is not asked again where the step before lifted no
--- mask, as in MDLM; it is then told an older time. temperature: of the tokens (1; 0 takes the likeliest).
---@param opts? { order: string, cached: boolean, temperature: number }
---@return function
function tokens.unmask(opts)
  local o = check.options("hierarchy.unmask", opts, {
    { "order", { "chance", "confidence" }, "chance" }, { "cached", "boolean", false }, { "temperature", "number", 1 },
  })
  if not (o.temperature >= 0 and o.temperature < math.huge) then
    check.fail("hierarchy.unmask", "temperature is wrong: got %g, expected 0 or more", o.temperature)
  end
  local lift = o.order == "chance" and by_chance or by_confidence
  local function sample(estimate, z, times, opt)
    local mask, logits = opt.cond.vocab + 1, nil
    for i = 1, #times - 1 do
      local t, s = times[i], times[i + 1]
      logits = logits or estimate(z, t)
      local lifted = lift(z:eq(mask), logits, t, s, opt.rng)
      local following = core.op.where(lifted, choose(logits, opt.rng, o.temperature), z)
      opt.on_step { i = i, x = z, sigma = t, denoised = following }
      if not (o.cached and lifted:sum():item() == 0) then logits = nil end
      z = following
    end
    return z
  end
  is_sampler[sample] = true
  return sample
end

tokens.sample = tokens.unmask()

return tokens
