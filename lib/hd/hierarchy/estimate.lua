-- hd/hierarchy/estimate.lua: the estimates of clean levels that samplers ask for, given all levels as they stand.
-- A state says how they stand: z { name = z + sigma eps }, standardised, and noise { name = sigma }; of mask levels
-- tokens and the share of masks.
-- Calls: hierarchy/context, draw, tokens; hd.guidance, schedule/prediction. Called by: hierarchy/run.

local check = require "hd.check"
local core = require "hd.core"
local context = require "hd.hierarchy.context"
local draw = require "hd.hierarchy.draw"
local guidance = require "hd.guidance"
local tokens = require "hd.hierarchy.tokens"
local prediction = require "hd.schedule.prediction"

local estimate = {}

-- What a level sees --------------------------------------------------------------------------------------------------

-- A finished coarser level with the noise that sampling puts on it: the same whenever this level asks.
local function augmented(level, other, state, o)
  local key = level.name .. " " .. other.name
  if not state.augmented[key] then
    local z = state.z[other.name]
    local generators = draw.generators(o, 1000 * level.index + other.index, z:size(1))
    local noisy = other.kind == "mask" and tokens.hide(other, z, o.t_aug, generators)
      or z + draw.normal(generators, table.move(z:shape(), 2, z:dim(), 1, {})) * o.t_aug
    state.augmented[key] = core.keep(noisy)
  end
  return state.augmented[key]
end

-- z and sigma of another level, as this one sees it.
local function as_seen(level, other, state, o)
  local name = other.name
  if other.index < level.index and state.noise[name] == 0 and o.t_aug > 0 then
    return augmented(level, other, state, o), o.t_aug
  end
  return state.z[name], state.noise[name]
end

-- What context.predict and context.logits want.
local function surroundings(self, models, level, state, o)
  local seen = { noisy = {}, sigmas = {}, times = {}, labels = o.labels }
  for _, name in ipairs(models._plan.sees[level.name]) do
    local other = self.by_name[name]
    local z, sigma = as_seen(level, other, state, o)
    seen.noisy[name], seen.sigmas[name] = z, sigma
    seen.times[name] = context.time_input(other, other.kind == "mask" and sigma or other.schedule:time_of(sigma))
  end
  return seen
end

-- Estimates ----------------------------------------------------------------------------------------------------------

-- A function that was given instead of a network sees all levels and their noise.
local function stand_in(self, fn, level, state, o)
  local levels, sigmas = {}, {}
  for _, other in ipairs(self.levels) do
    local name = other.name
    if state.z[name] then levels[name], sigmas[name] = as_seen(level, other, state, o) end
  end
  levels[level.name], sigmas[level.name] = state.z[level.name], state.noise[level.name]
  return fn(state.z[level.name], sigmas, levels)
end

-- A network as a function of (z, sigma): the estimate of a level, or the logits of its tokens.
local function network(models, level, seen)
  if level.kind == "mask" then return function(z, t) return context.logits(models, level, z, 1000 * t, seen) end end
  return prediction.denoiser(function(x, time) return context.predict(models, level, x, time, seen) end,
    { schedule = level.schedule, predict = level.predict, sigma_data = 1 })
end

-- The same, guided away from what it says without labels, or from what weaker models say.
local function guided(models, level, seen, o)
  local denoise, strength = network(models, level, seen), o.guidance[level.name]
  if not strength or not (o.labels or o.weak) then return denoise end
  local without = { noisy = seen.noisy, sigmas = seen.sigmas, times = seen.times, labels = o.weak and seen.labels }
  return guidance.between(denoise, network(o.weak or models, level, without), strength)
end

local function estimate_of(self, models, level, state, o)
  local fn, name = o.denoise[level.name], level.name
  if fn then return stand_in(self, fn, level, state, o) end
  if not models then
    check.fail("H:sample", "level '%s' has neither a network nor a function in denoise", name)
  end
  return guided(models, level, surroundings(self, models, level, state, o), o)(state.z[name], state.noise[name])
end

-- Estimates of pictures ----------------------------------------------------------------------------------------------

-- The x that estimates make together with the other levels: finished ones as they are, the rest as in `rest` or 0.
local function joined(self, x0, state, rest)
  if x0.flat then return self:unstandardise("flat", x0.flat) end
  local z = {}
  for _, level in ipairs(self.levels) do
    local name = level.name
    if x0[name] or state.noise[name] == 0 then
      z[name] = self:unstandardise(name, x0[name] or state.z[name])
    else
      z[name] = rest and rest[name] or state.z[name] * 0
    end
  end
  return self:join(z)
end

-- Estimates after their x, `before`, was changed to `after`: the levels of that, or, where levels hold more than x does
-- and are not the split of what they join to, themselves with the change of the levels.
local function changed(self, x0, before, after)
  if x0.flat then return { flat = self:standardise("flat", after) } end
  local z, old, out = self:split(after), self.redundant and self:split(before), {}
  for name, own in next, x0 do -- order free: separate keys
    out[name] = self:standardise(name, z[name])
    if old then out[name] = own + out[name] - self:standardise(name, old[name]) end
  end
  return out
end

-- Estimates held to the range that the data have. White stays white: what a coarse level misses of it no finer one
-- could mend.
local function limited(self, x0, state)
  local x = joined(self, x0, state)
  return changed(self, x0, x, x:clamp(self.range[1], self.range[2]))
end

-- Estimates whose known part is known: in x, where the mask is 1.
local function with_known(self, x0, state, o)
  local x = joined(self, x0, state, o.inpaint.levels)
  return changed(self, x0, x, x + (o.inpaint.x - x) * o.inpaint.mask)
end

--- The estimates of several levels that ask at the same time.
---@param self hd.hierarchy.Hierarchy
---@param models hd.hierarchy.Models?
---@param asking hd.hierarchy.Level[]
---@param state table
---@param o table  of H:sample
---@return table<string, hd.Tensor>
function estimate.all(self, models, asking, state, o)
  local scope <close> = core.scope()
  local x0, numbers, learned = {}, {}, false
  for _, level in ipairs(asking) do
    local x = estimate_of(self, models, level, state, o)
    x0[level.name] = x
    if level.kind == "gaussian" then
      numbers[level.name] = x
      learned = learned or not o.denoise[level.name]
    end
  end
  if next(numbers) and self.range and o.clip and learned then numbers = limited(self, numbers, state) end
  if next(numbers) and o.inpaint then numbers = with_known(self, numbers, state, o) end
  for name, x in next, numbers do x0[name] = x end -- order free: separate keys
  for _, x in next, x0 do scope:keep(x) end -- order free: each is kept
  return x0
end

return estimate
