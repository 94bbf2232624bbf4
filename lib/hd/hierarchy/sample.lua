-- hd/hierarchy/sample.lua: drawing from a hierarchy.
-- One clock per level: a stage names the level (or levels) whose clock runs, in sigmas from noise to 0; the others
-- stand still, coarser levels finished, finer ones as noise at their schedule's top, held ones at their value. The
-- regime only says which stages there are.
-- Calls: hierarchy/estimate, draw, tokens; hd.sampler. Called by: users, as H:sample.

local check = require "hd.check"
local core = require "hd.core"
local draw = require "hd.hierarchy.draw"
local estimate = require "hd.hierarchy.estimate"
local tokens = require "hd.hierarchy.tokens"
local sampler = require "hd.sampler"

local OPTIONS = {
  { "seed", "integer", 0 }, { "regime", "string" }, { "steps", "integer|table" }, { "hold", "table", {} },
  { "stop_after", "string" }, { "all", "boolean", false }, { "on_level", "callable" }, { "on_step", "callable" },
  { "noise", "table", {} }, { "denoise", "table", {} }, { "t_aug", "number" }, { "clip", "boolean", true },
  { "sampler", "callable" }, { "first", "integer", 1 }, { "batch", "integer", 64 },
}

local function steps_of(o, level)
  local steps = type(o.steps) == "table" and o.steps[level.name] or o.steps
  return type(steps) == "number" and steps or level.steps
end

-- The shape of one z (or of one x for "flat").
local function shape_of(self, name)
  if not self.shapes then
    check.fail("H:sample", "the shapes of the levels are not known yet: call H:check(data) or H:fit_stats(data) before")
  end
  return name == "flat" and self.shape or self.shapes[name]
end

-- Stages -----------------------------------------------------------------------------------------------------------

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

local function observer(name, o)
  return o.on_step and function(step)
    step.level = name
    o.on_step(step)
  end
end

local function run_sampler(level, denoise, x, o)
  local run = o.sampler or level.sampler or sampler.heun
  local sigmas = level.schedule:sigmas { steps = steps_of(o, level) }
  local generators = draw.generators(o, 1001 * level.index, x:size(1))
  return run(denoise, x, sigmas, { rng = generators, on_step = observer(level.name, o) })
end

-- One level runs from noise to 0.
local function sample_level(self, models, level, state, o)
  local z = state[level.name]
  if level.kind == "mask" then
    return tokens.sample(estimate.logits(self, models, level, state, o), level, z, {
      steps = steps_of(o, level), on_step = observer(level.name, o),
      generators = draw.generators(o, 1001 * level.index, z:size(1)),
    })
  end
  return run_sampler(level, estimate.denoiser(self, models, level, state, o), z, o)
end

-- Levels as one vector [n, ...] for a sampler, and back.
local function packing(levels, state)
  local n = state[levels[1].name]:size(1)
  local function pack(z)
    local parts = {}
    for i, level in ipairs(levels) do parts[i] = z[level.name]:reshape(n, -1) end
    return core.op.cat(parts, 2)
  end
  local function unpack(flat)
    local z, start = {}, 1
    for _, level in ipairs(levels) do
      local like = state[level.name]
      local size = like:numel() // n
      z[level.name] = flat:narrow(2, start, size):reshape(like:shape())
      start = start + size
    end
    return z
  end
  return pack, unpack
end

-- All levels that are not held run on the flat regime's clock, each with its stand-in for a network.
local function sample_together(self, state, o)
  local running = {}
  for _, level in ipairs(self.levels) do
    if not o.hold[level.name] then running[#running + 1] = level end
  end
  if #running == 0 then return state end
  local pack, unpack = packing(running, state)
  local function denoise(vector, sigma)
    local z, sigmas, out = unpack(vector), {}, {}
    for _, level in ipairs(self.levels) do
      sigmas[level.name] = o.hold[level.name] and 0.0 or sigma
      z[level.name] = z[level.name] or state[level.name]
    end
    for _, level in ipairs(running) do out[level.name] = o.denoise[level.name](z[level.name], sigmas, z) end
    return pack(out)
  end
  local z = unpack(run_sampler(self:flat_level(), denoise, pack(state), o))
  for _, level in ipairs(running) do state[level.name] = z[level.name] end
  return state
end

-- The unsplit x, from one network.
local function sample_flat(self, models, n, o)
  local level = self:flat_level()
  local noise = o.noise.flat or draw.normal(draw.generators(o, 1, n), shape_of(self, "flat"))
  local given = o.denoise.flat
  local denoise = given and estimate.stand_in(given, level, {}, {}) or estimate.network(models, level, {}, o)
  if self.range and o.clip and not given then
    local whole, low, high = denoise, self.range[1], self.range[2]
    denoise = function(x, sigma)
      return self:standardise("flat", self:unstandardise("flat", whole(x, sigma)):clamp(low, high))
    end
  end
  return self:unstandardise("flat", run_sampler(level, denoise, noise * estimate.top(level), o))
end

-- Start and end ------------------------------------------------------------------------------------------------------

-- Every level as noise (or masks), or held at the value given.
local function initial_state(self, n, o)
  local state = {}
  for _, level in ipairs(self.levels) do
    local name = level.name
    if o.hold[name] then
      state[name] = self:standardise(name, o.hold[name])
    elseif level.kind == "mask" then
      state[name] = tokens.masks(level, n, shape_of(self, name)[1])
    else
      local unit = o.noise[name] or draw.normal(draw.generators(o, level.index, n), shape_of(self, name))
      state[name] = unit * estimate.top(o.regime == "flat" and self.levels[1] or level)
    end
  end
  return state
end

-- A level that is not there: all masks, or zeros.
local function blank(level, z)
  if level.kind == "mask" then return tokens.masks(level, z:size(1), z:size(2)) end
  return core.zeros(z:shape(), { dtype = z:dtype() })
end

-- Pictures of single levels: each joined with the others at 0 (all masks).
local function pictures(self, z)
  local out = {}
  for _, level in ipairs(self.levels) do
    local parts = {}
    for _, other in ipairs(self.levels) do
      parts[other.name] = other == level and z[other.name] or blank(other, z[other.name])
    end
    out[level.name] = self:join(parts)
  end
  return out
end

-- Run every stage; gives the levels in the data's units. Levels that were not drawn stay at their mean.
local function run_stages(self, models, state, o)
  local z = {}
  for _, levels in ipairs(stages(self, o)) do
    if o.regime == "flat" then
      state = sample_together(self, state, o)
    elseif not o.hold[levels[1].name] then
      state[levels[1].name] = sample_level(self, models, levels[1], state, o)
    end
    for _, level in ipairs(levels) do
      z[level.name] = o.hold[level.name] or self:unstandardise(level.name, state[level.name])
      if o.on_level then o.on_level(level.name, z[level.name]) end
    end
  end
  for _, level in ipairs(self.levels) do
    local name = level.name
    z[name] = z[name] or o.hold[name] or self:unstandardise(name, blank(level, state[name]))
  end
  return z
end

-- Options ------------------------------------------------------------------------------------------------------------

-- Are levels themselves drawn in the flat regime (by the functions in denoise) rather than x by a network?
local function by_levels(self, o)
  local given, missing = false, nil
  for _, level in ipairs(self.levels) do
    local name = level.name
    given = given or o.denoise[name] ~= nil or o.noise[name] ~= nil
    if not (o.denoise[name] or o.hold[name]) then missing = missing or name end
  end
  if given and missing then
    check.fail("H:sample", "level '%s' has no function in denoise: the flat regime needs one for each level or none",
      missing)
  end
  return given
end

-- A tensor of n samples for level `name`.
local function check_batch(self, key, name, z, n)
  local shape = self.shapes and shape_of(self, name)
  local expected = "[" .. n .. "," .. (shape and table.concat(shape, ",") or "...") .. "]"
  local ok = check.is_tensor(z) and z:dim() > 1 and z:size(1) == n
  if not ok or (shape and "[" .. table.concat(z:shape(), ",") .. "]" ~= expected) then
    check.fail("H:sample", "%s.%s is wrong: got %s, expected %s", key, name, check.show(z), expected)
  end
end

local function check_steps(where, steps)
  if check.arg("H:sample", where, steps, "integer") < 1 then
    check.fail("H:sample", "%s is wrong: got %d, expected at least 1", where, steps)
  end
end

local function check_options(self, o, n)
  if check.arg("H:sample", "n", n, "integer") < 1 then
    check.fail("H:sample", "n is wrong: got %d, expected at least 1", n)
  end
  if o.batch < 1 then check.fail("H:sample", "batch is wrong: got %d, expected at least 1", o.batch) end
  check.one_of("H:sample", "regime", o.regime, self.regimes)
  for _, key in ipairs { "hold", "noise" } do
    for _, name in ipairs(self:names_in(o[key])) do check_batch(self, key, name, o[key][name], n) end
  end
  for _, name in ipairs(self:names_in(o.denoise)) do
    check.arg("H:sample", "denoise." .. name, o.denoise[name], "callable")
  end
  if type(o.steps) == "table" then
    for _, name in ipairs(self:names_in(o.steps)) do check_steps("steps." .. name, o.steps[name]) end
  elseif o.steps then
    check_steps("steps", o.steps)
  end
  if o.stop_after then self:level(o.stop_after) end
  if o.regime == "flat" and o.stop_after then
    check.fail("H:sample", "stop_after is for regimes that draw level after level: the flat regime draws all at once")
  end
end

-- Batches ------------------------------------------------------------------------------------------------------------

-- Entries first to last of each tensor in a table.
local function rows(tensors, first, last)
  local out = {}
  for name, z in next, tensors do out[name] = z:narrow(1, first, last - first + 1) end -- order free: separate keys
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
  ---@param opts? table  seed (0); regime (the models'); steps: a number, or { name = number }; hold: { name = z } in
  ---  the data's units, kept as they are; stop_after: a level's name, finer ones stay at their mean (tokens masked);
  ---  all: also give { name = picture }; on_level: function (name, z) after each level ("flat" where x is drawn whole);
  ---  on_step: as of samplers, with `level`; noise: { name = z } of unit variance instead of the draw, its type rules;
  ---  denoise: { name = function (z, sigmas, levels) -> x0 } instead of a network, in standardised coordinates (logits
  ---  for tokens); t_aug: noise on the context; clip (true): hold estimates to the data's range; sampler (the level's,
  ---  else hd.sampler.heun); first: the number of the first sample (1); batch: how many are drawn at once (64), which
  ---  changes nothing but the memory needed. In the flat regime noise.flat and denoise.flat are for x, or all levels
  ---  have functions of their own.
  ---@return hd.Tensor x
  ---@return table<string, hd.Tensor>? pictures
  function Hierarchy:sample(models, n, opts)
    local o = check.options("H:sample", opts, OPTIONS)
    if models ~= nil then self:check_models("H:sample", models) end
    local _ <close> = core.no_grad()
    o.regime = o.regime or (models and models.regime) or self.regime
    o.t_aug = o.t_aug or self.t_aug_sample
    check_options(self, o, n)
    if n > o.batch then return sample_batches(self, models, n, o) end
    if o.regime == "flat" and not by_levels(self, o) then
      if next(o.hold) then check.fail("H:sample", "hold is for levels: the flat regime draws x as a whole") end
      local x = sample_flat(self, models, n, o)
      if o.on_level then o.on_level("flat", x) end
      return x, o.all and self:pictures(x) or nil
    end
    local z = run_stages(self, models, initial_state(self, n, o), o)
    return self:join(z), o.all and pictures(self, z) or nil
  end
end
