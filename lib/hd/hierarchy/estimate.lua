-- hd/hierarchy/estimate.lua: the estimate of a clean level that samplers ask for, while the other levels stand still.
-- Calls: hierarchy/context, draw, tokens; schedule/prediction. Called by: hierarchy/sample.

local check = require "hd.check"
local core = require "hd.core"
local context = require "hd.hierarchy.context"
local draw = require "hd.hierarchy.draw"
local tokens = require "hd.hierarchy.tokens"
local prediction = require "hd.schedule.prediction"

local estimate = {}

-- A coarser level with the noise that sampling puts on it.
local function augmented(level, other, z, o)
  if o.t_aug <= 0 then return z end
  local generators = draw.generators(o, 1000 * level.index + other.index, z:size(1))
  if other.kind == "mask" then return tokens.hide(other, z, o.t_aug, generators) end
  return z + draw.normal(generators, table.move(z:shape(), 2, z:dim(), 1, {})) * o.t_aug
end

--- The noise that a level starts from: sigma, or the share of masks.
---@param level hd.hierarchy.Level
---@return number
function estimate.top(level)
  return level.kind == "mask" and 1.0 or level.schedule:level(level.schedule.t_max)
end

-- All levels as they stand while one runs, and the sigma of each; the same for the whole stage.
local function surroundings(self, state, level, o)
  local seen, sigmas = {}, {}
  for _, other in ipairs(self.levels) do
    local name = other.name
    seen[name], sigmas[name] = state[name], o.hold[name] and 0.0 or estimate.top(other)
    if other.index < level.index then
      seen[name], sigmas[name] = augmented(level, other, state[name], o), o.t_aug
    end
  end
  return seen, sigmas
end

--- A function that was given instead of a network, as samplers call it.
---@param fn fun(z: hd.Tensor, sigmas: table, levels: table): hd.Tensor
---@param level hd.hierarchy.Level
---@param seen table<string, hd.Tensor>  the levels as they stand
---@param sigmas table<string, number>
---@return fun(z: hd.Tensor, sigma: number): hd.Tensor
function estimate.stand_in(fn, level, seen, sigmas)
  return function(z, sigma)
    local levels, now = {}, {}
    for name, other in next, seen do levels[name], now[name] = other, sigmas[name] end -- order free: separate keys
    levels[level.name], now[level.name] = z, sigma
    return fn(z, now, levels)
  end
end

local function need_models(models, level)
  if not models then
    check.fail("H:sample", "level '%s' has neither a network nor a function in denoise", level.name)
  end
end

--- The network's estimate of a level, as samplers call it.
---@param models hd.hierarchy.Models
---@param level hd.hierarchy.Level
---@param seen table<string, hd.Tensor>
---@param o table  of H:sample
---@return fun(x: hd.Tensor, sigma: number): hd.Tensor
function estimate.network(models, level, seen, o)
  need_models(models, level)
  return prediction.denoiser(function(x, time)
    return context.predict(models, level, x, time, seen, 1000 * o.t_aug)
  end, { schedule = level.schedule, predict = level.predict, sigma_data = 1 })
end

-- An estimate held to the range that the data have: join it with the coarser levels, the finer ones at 0, clamp, split
-- again. White stays white: what a coarse level misses of it no finer one could mend.
local function limited(self, level, state, denoise)
  return function(noisy, sigma)
    local z, x0 = {}, denoise(noisy, sigma)
    for _, other in ipairs(self.levels) do
      local name = other.name
      z[name] = other.index > level.index and state[name] * 0
        or self:unstandardise(name, other == level and x0 or state[name])
    end
    local x = self:join(z):clamp(self.range[1], self.range[2])
    return self:standardise(level.name, self:split(x)[level.name])
  end
end

--- What a sampler calls for a level while the others stand as in `state`: a stand-in or the network.
---@param self hd.hierarchy.Hierarchy
---@param models hd.hierarchy.Models?
---@param level hd.hierarchy.Level
---@param state table<string, hd.Tensor>  standardised
---@param o table  of H:sample
---@return fun(x: hd.Tensor, sigma: number): hd.Tensor
function estimate.denoiser(self, models, level, state, o)
  local seen, sigmas = surroundings(self, state, level, o)
  if o.denoise[level.name] then return estimate.stand_in(o.denoise[level.name], level, seen, sigmas) end
  local denoise = estimate.network(models, level, seen, o)
  if self.range and o.clip then return limited(self, level, state, denoise) end
  return denoise
end

--- The same for a mask level: logits of its tokens.
---@param self hd.hierarchy.Hierarchy
---@param models hd.hierarchy.Models?
---@param level hd.hierarchy.Level
---@param state table<string, hd.Tensor>
---@param o table  of H:sample
---@return fun(z: hd.Tensor, t: number): hd.Tensor
function estimate.logits(self, models, level, state, o)
  local seen, sigmas = surroundings(self, state, level, o)
  if o.denoise[level.name] then return estimate.stand_in(o.denoise[level.name], level, seen, sigmas) end
  need_models(models, level)
  return function(z, t) return context.logits(models, level, z, core.full({ z:size(1) }, 1000 * t), seen) end
end

return estimate
