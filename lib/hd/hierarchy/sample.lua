-- hd/hierarchy/sample.lua: drawing from a hierarchy.
-- One clock per level: a stage names the level (or levels) whose clock runs, in sigmas from noise to 0; the others
-- stand still, coarser levels finished (or held), finer ones as noise at their schedule's top. The regime only says
-- which stages there are. Sample i has noise of its own, told by (seed, level, i), so it does not depend on the batch.

local check = require "hd.check"
local core = require "hd.core"
local context = require "hd.hierarchy.context"
local prediction = require "hd.schedule.prediction"
local sampler = require "hd.sampler"

local OPTIONS = {
  { "seed", "integer", 0 }, { "regime", "string" }, { "steps", "integer|table" }, { "hold", "table", {} },
  { "stop_after", "string" }, { "all", "boolean", false }, { "on_level", "callable" }, { "on_step", "callable" },
  { "noise", "table", {} }, { "denoise", "table", {} }, { "t_aug", "number" }, { "clip", "boolean", true },
  { "sampler", "callable" }, { "first", "integer", 1 }, { "batch", "integer", 64 },
}

-- Noise of unit variance for n samples of one level, each from its own stream.
local function draw(o, index, n, shape)
  local parts = {}
  for i = 1, n do
    parts[i] = core.randn({ 1, table.unpack(shape) }, { rng = core.rng(o.seed, index):fork(o.first + i - 1) })
  end
  return n == 1 and parts[1] or core.op.cat(parts, 1)
end

local function steps_of(o, level)
  if type(o.steps) == "table" then return o.steps[level.name] or level.steps end
  return o.steps or level.steps
end

-- Gaussian levels --------------------------------------------------------------------------------------------------

-- Coarser levels with the noise that sampling puts on them, fixed for the stage; and the sigma of every level.
local function surroundings(self, state, level, o)
  local seen, sigmas = {}, {}
  for _, other in ipairs(self.levels) do
    local z = state[other.name]
    if other.index < level.index then
      sigmas[other.name] = o.t_aug
      if o.t_aug > 0 and other.kind == "gaussian" then
        local shape = table.move(z:shape(), 2, z:dim(), 1, {})
        z = z + draw(o, 1000 * level.index + other.index, z:size(1), shape) * o.t_aug
      end
    elseif other.index > level.index and other.kind == "gaussian" then
      sigmas[other.name] = other.schedule:level(other.schedule.t_max)
    end
    seen[other.name] = z
  end
  return seen, sigmas
end

-- The network's estimate of a level as a function of samplers.
local function network_denoiser(models, level, seen, o)
  return prediction.denoiser(function(x, time)
    return context.predict(models, level, x, time, seen, 1000 * o.t_aug)
  end, { schedule = level.schedule, predict = level.predict, sigma_data = 1 })
end

-- Once all levels are there, an estimate can be held to the range that the data have: join, clamp, split again.
local function limited(self, level, state, o)
  local range = self.range
  if not (range and o.clip and level.index == #self.levels) then return nil end
  return function(x0)
    local z = {}
    for _, other in ipairs(self.levels) do
      z[other.name] = self:unstandardise(other.name, other == level and x0 or state[other.name])
    end
    local x = self:join(z):clamp(range[1], range[2])
    return self:standardise(level.name, self:split(x)[level.name])
  end
end

local function gaussian_denoiser(self, models, level, state, o)
  local seen, sigmas = surroundings(self, state, level, o)
  local stand_in = o.denoise[level.name]
  if stand_in then
    return function(z, sigma)
      local all, now = {}, {}
      for _, other in ipairs(self.levels) do
        all[other.name], now[other.name] = seen[other.name], sigmas[other.name]
      end
      all[level.name], now[level.name] = z, sigma
      return stand_in(z, now, all)
    end
  end
  local estimate, limit = network_denoiser(models, level, seen, o), limited(self, level, state, o)
  if not limit then return estimate end
  return function(z, sigma) return limit(estimate(z, sigma)) end
end

-- Mask levels ------------------------------------------------------------------------------------------------------

-- Tokens drawn from logits [n, t, v] by the Gumbel-max trick.
local function draw_tokens(logits, rng)
  local u = core.rand(logits:shape(), { rng = rng }):clamp(1e-9, 1)
  return (logits - (-(u:log())):log()):argmax(3)
end

-- Ancestral sampling: from all masked at t = 1, each mask is lifted with chance (t - s) / t in the step from t to s.
local function sample_tokens(self, models, level, state, o)
  local z, mask = state[level.name], level.vocab + 1
  local n, steps, seen = z:size(1), steps_of(o, level), surroundings(self, state, level, o)
  local rng = core.rng(o.seed, 2000 + level.index):fork(o.first)
  local stand_in = o.denoise[level.name]
  for i = 1, steps do
    local t, s = 1 - (i - 1) / steps, 1 - i / steps
    local logits = stand_in and stand_in(z, { [level.name] = t }, seen)
      or context.logits(models, level, z, core.full({ n }, 1000 * t), seen)
    local lifted = core.rand(z:shape(), { rng = rng }):lt((t - s) / t):logical_and(z:eq(mask))
    z = core.op.where(lifted, draw_tokens(logits, rng), z)
    if o.on_step then o.on_step { level = level.name, i = i, x = z, sigma = t } end
  end
  return z
end

-- Stages -------------------------------------------------------------------------------------------------------------

-- The stages of a regime: lists of levels whose clocks run together.
local function stages(self, o)
  if o.regime == "flat" then return { self.levels } end
  local list = {}
  for _, level in ipairs(self.levels) do
    list[#list + 1] = { level }
    if level.name == o.stop_after then break end
  end
  return list
end

local function run_sampler(level, denoise, x, sigmas, o)
  local run = o.sampler or level.sampler or sampler.heun
  return run(denoise, x, sigmas, { on_step = o.on_step and function(step)
    step.level = level.name
    o.on_step(step)
  end })
end

-- One level runs from noise to 0.
local function sample_level(self, models, level, state, o)
  if level.kind == "mask" then return sample_tokens(self, models, level, state, o) end
  local denoise = gaussian_denoiser(self, models, level, state, o)
  local sigmas = level.schedule:sigmas { steps = steps_of(o, level) }
  return run_sampler(level, denoise, state[level.name], sigmas, o)
end

-- All levels run on one clock, each with its stand-in for a network: the levels become one flat vector for the sampler.
local function sample_together(levels, state, o)
  local n = state[levels[1].name]:size(1)
  local function pack(z)
    local parts = {}
    for i, level in ipairs(levels) do parts[i] = z[level.name]:reshape(n, -1) end
    return core.op.cat(parts, 2)
  end
  local function unpack_levels(flat)
    local z, start = {}, 1
    for _, level in ipairs(levels) do
      local size = state[level.name]:numel() // n
      z[level.name] = flat:narrow(2, start, size):reshape(state[level.name]:shape())
      start = start + size
    end
    return z
  end
  local function denoise(flat, sigma)
    local z, sigmas, out = unpack_levels(flat), {}, {}
    for _, level in ipairs(levels) do sigmas[level.name] = sigma end
    for _, level in ipairs(levels) do
      local stand_in = o.denoise[level.name]
        or check.fail("H:sample", "denoise has no function for level '%s': the flat regime needs all or none",
          level.name)
      out[level.name] = stand_in(z[level.name], sigmas, z)
    end
    return pack(out)
  end
  local first = levels[1]
  local sigmas = first.schedule:sigmas { steps = steps_of(o, first) }
  return unpack_levels(run_sampler(first, denoise, pack(state), sigmas, o))
end

-- The unsplit x from one network, in the flat regime.
local function sample_flat(self, models, n, o)
  local level = self:flat_level()
  local noise = o.noise.flat or draw(o, 1, n, self.shape)
  local stand_in = o.denoise.flat
  local denoise = stand_in and function(x, sigma) return stand_in(x, { flat = sigma }, { flat = x }) end
    or network_denoiser(models, level, {}, o)
  if self.range and o.clip and not stand_in then
    local estimate = denoise
    denoise = function(x, sigma)
      local pixels = self:unstandardise("flat", estimate(x, sigma))
      return self:standardise("flat", pixels:clamp(self.range[1], self.range[2]))
    end
  end
  local sigmas = level.schedule:sigmas { steps = steps_of(o, level) }
  local x = run_sampler(level, denoise, noise * sigmas[1], sigmas, o)
  return self:unstandardise("flat", x)
end

-- Start ------------------------------------------------------------------------------------------------------------

-- Every level as noise (or masks), or held at the value given.
local function initial_state(self, n, o)
  local state = {}
  for _, level in ipairs(self.levels) do
    local name = level.name
    if o.hold[name] then
      state[name] = self:standardise(name, o.hold[name])
    elseif level.kind == "mask" then
      state[name] = core.full({ n, table.unpack(self.shapes[name]) }, level.vocab + 1, { dtype = "i64" })
    else
      local unit = o.noise[name] or draw(o, level.index, n, self.shapes[name])
      state[name] = unit * level.schedule:level(level.schedule.t_max)
    end
  end
  return state
end

-- A level of standardised zeros: what stands for levels that were not drawn.
local function blank(self, state, name)
  return self:unstandardise(name, state[name] * 0)
end

-- Pictures of single levels: each joined with the others at 0.
local function pictures(self, z)
  local out = {}
  for _, level in ipairs(self.levels) do
    local parts = {}
    for _, other in ipairs(self.levels) do
      parts[other.name] = other == level and z[other.name] or z[other.name] * 0
    end
    out[level.name] = self:join(parts)
  end
  return out
end

local function check_level_tables(self, o)
  for _, key in ipairs { "hold", "noise", "denoise" } do
    for name in next, o[key] do -- order free: every name is checked
      if name ~= "flat" then self:level(name) end
    end
  end
  if o.stop_after then self:level(o.stop_after) end
  check.one_of("H:sample", "regime", o.regime, self.regimes)
end

-- Entries first to last of each tensor in a table.
local function rows(tables, first, last)
  local out = {}
  for name, z in next, tables do out[name] = z:narrow(1, first, last - first + 1) end -- order free: separate keys
  return out
end

-- More samples than are drawn at once: batch after batch. Noise belongs to a sample's number, not to its batch.
local function sample_batches(self, models, n, o)
  local xs, levels = {}, {}
  for first = 1, n, o.batch do
    local last, part = math.min(n, first + o.batch - 1), {}
    for key, value in next, o do part[key] = value end -- order free: a copy
    part.first, part.hold, part.noise = o.first + first - 1, rows(o.hold, first, last), rows(o.noise, first, last)
    local x, pictured = self:sample(models, last - first + 1, part)
    xs[#xs + 1] = x
    for name, picture in next, pictured or {} do -- order free: separate keys
      levels[name] = levels[name] or {}
      table.insert(levels[name], picture)
    end
  end
  for name, list in next, levels do levels[name] = core.op.cat(list, 1) end -- order free: separate keys
  return core.op.cat(xs, 1), o.all and levels or nil
end

return function(Hierarchy)
  --- Each level of x alone: { name = picture }, the other levels at 0.
  ---@param x hd.Tensor
  ---@return table<string, hd.Tensor>
  function Hierarchy:pictures(x) return pictures(self, self:split(x)) end

  --- Draw n samples, without gradients.
  ---@param models hd.hierarchy.Models?  nil where `denoise` stands for every network
  ---@param n integer
  ---@param opts? table  seed (0); regime (the models'); steps: a number, or { name = number }; hold: { name = z }
  ---  in the data's units, kept as they are; stop_after: a level's name, finer ones stay at their mean; all: also give
  ---  { name = picture }; on_level: function (name, z) after each level; on_step: as of samplers, with `level`;
  ---  noise: { name = z } of unit variance instead of the draw, its type rules; denoise: { name = function (z, sigmas,
  ---  levels) -> x0 } instead of a network, in standardised coordinates; t_aug: noise on the context; clip (true): hold
  ---  estimates to the data's range; sampler (the level's, else hd.sampler.heun); first: the number of the first sample
  ---  (1); batch: how many are drawn at once (64), which changes nothing but the memory needed
  ---@return hd.Tensor x
  ---@return table<string, hd.Tensor>? pictures
  function Hierarchy:sample(models, n, opts)
    local o = check.options("H:sample", opts, OPTIONS)
    local _ <close> = core.no_grad()
    o.regime = o.regime or (models and models.regime) or self.regime
    o.t_aug = o.t_aug or self.t_aug_sample
    check_level_tables(self, o)
    if n > o.batch then return sample_batches(self, models, n, o) end
    local together = o.regime == "flat" and (o.denoise[self.levels[1].name] or o.noise[self.levels[1].name])
    if o.regime == "flat" and not together then
      local x = sample_flat(self, models, n, o)
      return x, o.all and self:pictures(x) or nil
    end
    local state = initial_state(self, n, o)
    local z = self:run_stages(models, state, o)
    local x = self:join(z)
    return x, o.all and pictures(self, z) or nil
  end

  -- Run every stage; gives the levels in the data's units.
  function Hierarchy:run_stages(models, state, o)
    local z = {}
    for _, levels in ipairs(stages(self, o)) do
      if #levels > 1 then
        state = sample_together(levels, state, o)
      elseif not o.hold[levels[1].name] then
        state[levels[1].name] = sample_level(self, models, levels[1], state, o)
      end
      for _, level in ipairs(levels) do
        z[level.name] = o.hold[level.name] or self:unstandardise(level.name, state[level.name])
        if o.on_level then o.on_level(level.name, z[level.name]) end
      end
    end
    for _, level in ipairs(self.levels) do z[level.name] = z[level.name] or blank(self, state, level.name) end
    return z
  end
end
