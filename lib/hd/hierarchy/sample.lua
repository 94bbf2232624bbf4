-- hd/hierarchy/sample.lua: drawing from a hierarchy: what the options of H:sample mean.
-- Levels that run go along a path of noise (clock.lua, run.lua); held ones stand at their value, without noise; the
-- regime or an own clock only says how the path goes.
-- Calls: hierarchy/clock, draw, run, tokens. Called by: users, as H:sample.

local check = require "hd.check"
local clock = require "hd.hierarchy.clock"
local core = require "hd.core"
local draw = require "hd.hierarchy.draw"
local run = require "hd.hierarchy.run"
local tokens = require "hd.hierarchy.tokens"

local OPTIONS = {
  { "seed", "integer", 0 }, { "regime", "string" }, { "steps", "integer|table" }, { "hold", "table", {} },
  { "stop_after", "string" }, { "all", "boolean", false }, { "on_level", "callable" }, { "on_step", "callable" },
  { "noise", "table", {} }, { "denoise", "table", {} }, { "t_aug", "number" }, { "clip", "boolean", true },
  { "sampler", "callable" }, { "first", "integer", 1 }, { "batch", "integer", 64 }, { "clocks", "callable" },
  { "lag", "number" }, { "start_from", "table" }, { "inpaint", "table" }, { "labels", "integer|tensor" },
  { "guidance", "number|table" }, { "weak", "table" },
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

-- Start and end ------------------------------------------------------------------------------------------------------

-- The steps of a level's noise, falling to 0: sigmas of its schedule (of `flat` where that is given), shares of masks.
local function grid_of(flat)
  return function(level, steps)
    if level.kind == "gaussian" then return (flat or level).schedule:sigmas { steps = steps } end
    return tokens.shares(level, steps)
  end
end

-- Levels that run, and the path of their noise.
local function plan(self, levels, o)
  local running, steps = {}, {}
  local flat = o.regime == "flat" and self:flat_level() or nil
  for _, level in ipairs(levels) do
    if not o.hold[level.name] then
      running[#running + 1] = level
      steps[level.name] = steps_of(o, flat or level)
    end
    if level.name == o.stop_after and o.regime == "cascade" and not o.clocks then break end
  end
  if #running == 0 then return running, { {} } end
  return running, clock.path(running, { regime = o.regime, clocks = o.clocks, lag = o.lag, steps = steps,
    grid = grid_of(flat), start = o.start_from and o.start_from.times or {} })
end

-- Unit noise for a level, or all masks.
local function fresh(self, level, n, o)
  local name = level.name
  return o.noise[name] or draw.normal(draw.generators(o, level.index, n), shape_of(self, name))
end

-- A level at the beginning: data with noise, or noise (masks) alone.
local function beginning(self, level, n, sigma, o)
  local name = level.name
  local data = o.start_from and o.start_from.levels[name]
  if level.kind == "mask" then
    local z = data and tokens.hide(level, data, sigma, draw.generators(o, level.index, n))
      or tokens.masks(level, n, shape_of(self, name)[1])
    local known = o.inpaint and o.inpaint.known[name]
    return known and core.op.where(known, o.inpaint.levels[name], z) or z
  end
  local noise = fresh(self, level, n, o) * sigma
  return data and self:standardise(name, data) + noise or noise
end

local function initial_state(self, levels, n, path, o)
  local state, flat = { z = {}, noise = {}, augmented = {} }, o.regime == "flat" and self:flat_level() or nil
  for _, level in ipairs(levels) do
    local name = level.name
    if o.hold[name] then
      state.z[name], state.noise[name] = self:standardise(name, o.hold[name]), 0.0
    else -- a level that is not drawn stays as noise
      state.noise[name] = path[1][name] or grid_of(flat)(level, steps_of(o, level))[1]
      state.z[name] = beginning(self, level, n, state.noise[name], o)
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

-- Tells on_level of each level that is done, once; held ones after all coarser ones. True when the last one wanted is.
local function reporter(self, levels, state, z, o)
  return function()
    local all_before = true
    for _, level in ipairs(levels) do
      local name = level.name
      local held = o.hold[name]
      if not z[name] and state.noise[name] == 0 and (not held or all_before) then
        z[name] = held or core.keep(self:unstandardise(name, state.z[name]))
        if o.on_level then o.on_level(name, z[name]) end
      end
      all_before = all_before and z[name] ~= nil
    end
    return o.stop_after and z[o.stop_after] ~= nil
  end
end

-- Draw these levels; gives them in the data's units. Those that were not drawn stay at their mean.
local function draw_levels(self, models, levels, n, o)
  local running, path = plan(self, levels, o)
  local state, z = initial_state(self, levels, n, path, o), {}
  run.along(self, models, running, path, state, o, reporter(self, levels, state, z, o))
  for _, level in ipairs(levels) do
    local name = level.name
    z[name] = z[name] or o.hold[name] or self:unstandardise(name, blank(level, state.z[name]))
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
  if o.lag < 0 or o.lag > 1 then check.fail("H:sample", "lag is wrong: got %g, expected 0 to 1", o.lag) end
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
  if o.stop_after and not o.clocks and (o.regime == "flat" or o.regime == "joint" or o.regime == "free") then
    check.fail("H:sample", "stop_after is for regimes that draw level after level: the %s regime draws all at once",
      o.regime)
  end
end

-- start_from = { x = or levels = { name = z }, t = number or { name = number } } as { levels, times }.
local function read_start(self, start, n)
  if not start then return nil end
  local o = check.options("H:sample: start_from", start,
    { { "x", "tensor" }, { "levels", "table", {} }, { "t", "number|table", required = true } })
  local levels, times = {}, {}
  if o.x then
    for name, z in next, self:split(o.x) do levels[name] = z end -- order free: a copy
    levels.flat = o.x
  end
  for _, name in ipairs(self:names_in(o.levels)) do levels[name] = o.levels[name] end
  for _, name in ipairs(self:names_in(levels)) do
    check_batch(self, "start_from", name, levels[name], n)
    local t = type(o.t) == "table" and (o.t[name] or o.t.flat) or o.t
    if type(t) == "table" then t = 1.0 end -- a level without a time of its own begins as noise
    if check.arg("H:sample", "start_from.t", t, "number") < 0 or t > 1 then
      check.fail("H:sample", "start_from.t is wrong: got %g, expected 0 (as given) to 1 (noise alone)", t)
    end
    times[name] = t
    if t == 1 then levels[name] = nil end
  end
  if type(o.t) == "table" then self:names_in(o.t) end
  return { levels = levels, times = times }
end

-- Which tokens of levels with the positions of x are known.
local function known_tokens(self, x, mask)
  local known, full = {}, nil
  for _, level in ipairs(self.levels) do
    if level.kind == "mask" then
      if #self.shapes[level.name] ~= 1 or self.shapes[level.name][1] ~= x:size(2) then
        check.fail("H:sample", "inpaint is for levels with the positions of x: '%s' has others, use hold", level.name)
      end
      full = full or (x * 0 + mask):ne(0)
      known[level.name] = full
    end
  end
  return known
end

-- inpaint = { x = known pictures, mask = 1 where they are known }, with the known levels.
local function read_inpaint(self, inpaint, n)
  if not inpaint then return nil end
  local o = check.options("H:sample: inpaint", inpaint,
    { { "x", "tensor", required = true }, { "mask", "tensor", required = true } })
  if o.x:dim() ~= #shape_of(self, "flat") + 1 or o.x:size(1) ~= n then
    check.fail("H:sample", "inpaint.x is wrong: got %s, expected [%d,%s]", check.show(o.x), n,
      table.concat(self.shape, ","))
  end
  local mask = o.mask:to(o.x:dtype())
  if not pcall(function() return (mask + o.x):shape() end) or mask:dim() ~= o.x:dim() then
    check.fail("H:sample", "inpaint.mask is wrong: got %s, expected as many dimensions as x, [n or 1,1 or c,...]",
      check.show(o.mask))
  end
  return { x = o.x, mask = mask, levels = self:split(o.x), known = known_tokens(self, o.x, mask) }
end

-- Guidance by level: { name = { scale =, s_min =, s_max = } }, from a number for all, numbers or tables by level, or
-- what the levels declare.
local function read_guidance(self, o)
  local out, levels = {}, { table.unpack(self.levels) }
  if type(o.guidance) == "table" then self:names_in(o.guidance) end
  if o.guidance and not (o.labels or o.weak) then
    check.fail("H:sample", "guidance needs labels, or weak = weaker models to be guided away from")
  end
  if o.regime == "flat" and levels[1].kind == "gaussian" then levels[#levels + 1] = self:flat_level() end
  for _, level in ipairs(levels) do
    local g = o.guidance
    if type(g) == "table" then g = g[level.name] end
    g = g or level.guidance
    if g then out[level.name] = type(g) == "number" and { scale = g } or g end
  end
  return out
end

-- Batches ------------------------------------------------------------------------------------------------------------

-- Entries first to last of each tensor in a table.
local function rows(tensors, first, last)
  local out = {}
  for name, z in next, tensors do out[name] = z:narrow(1, first, last - first + 1) end -- order free: separate keys
  return out
end

-- Of start_from, inpaint and labels: what belongs to these samples.
local function narrowed(part, o, first, last)
  local function some(x, n) return x and x:size(1) == n and x:narrow(1, first, last - first + 1) or x end
  if o.start_from then
    part.start_from = { levels = rows(o.start_from.levels or {}, first, last), t = o.start_from.t,
      x = some(o.start_from.x, o.count) }
  end
  if o.inpaint then
    part.inpaint = { x = some(o.inpaint.x, o.count), mask = some(o.inpaint.mask, o.count) }
  end
  if check.is_tensor(o.labels) then part.labels = some(o.labels, o.count) end
end

-- More samples than are drawn at once: batch after batch. Noise belongs to a sample's number, not to its batch.
local function sample_batches(self, models, n, o)
  local xs, levels = {}, {}
  for first = 1, n, o.batch do
    local last, part = math.min(n, first + o.batch - 1), {}
    for key, value in next, o do part[key] = value end -- order free: a copy
    part.first, part.hold, part.noise = o.first + first - 1, rows(o.hold, first, last), rows(o.noise, first, last)
    part.count = nil
    narrowed(part, o, first, last)
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

-- What is known of x stays as it is.
local function pasted(x, o)
  return o.inpaint and x + (o.inpaint.x - x) * o.inpaint.mask or x
end

-- The unsplit x, as the one level that there is.
local function sample_flat(self, models, n, o)
  if next(o.hold) then check.fail("H:sample", "hold is for levels: the flat regime draws x as a whole") end
  local x = draw_levels(self, models, { self:flat_level() }, n, o).flat
  return pasted(x, o)
end

return function(Hierarchy)
  --- Each level of x alone: { name = picture }, the other levels at 0.
  ---@param x hd.Tensor
  ---@return table<string, hd.Tensor>
  function Hierarchy:pictures(x) return pictures(self, self:split(x)) end

  --- Draw n samples, without gradients.
  ---@param models hd.hierarchy.Models?  nil where `denoise` stands for every network
  ---@param n integer
  ---@param opts? table  seed (0); regime (the models'; networks of `free` take any), lag, or clocks: a function from
  ---  progress (1 to 0) to { name = time }; steps: a number, or { name = number }; hold: { name = z } in the data's
  ---  units, kept as they are; stop_after: a level's name, finer ones stay at their mean (tokens masked); start_from:
  ---  { x = or levels = { name = z }, t = number or { name = number } }, data to begin from, with the noise of time t;
  ---  inpaint: { x =, mask = }, x is kept where the mask is 1; labels ([n] or an integer) and guidance: how much more
  ---  they count (1 is not at all), a number, { name = number } or { name = { scale =, s_min =, s_max = } }; weak:
  ---  weaker models to guide away from, instead of labels left out; all: also give { name = picture }; on_level:
  ---  function (name, z) when a level is done ("flat" where x is drawn whole); on_step: as of samplers, with `level`;
  ---  noise: { name = z } of unit variance instead of the draw, its type rules; denoise: { name = function (z, sigmas,
  ---  levels) -> x0 } instead of a network, in standardised coordinates (logits for tokens); t_aug: noise on the
  ---  context; clip (true): hold estimates to the data's range; sampler (the level's, else hd.sampler.heun); first:
  ---  the number of the first sample (1); batch: how many are drawn at once (64), which changes nothing but the memory
  ---  needed. In the flat regime noise.flat and denoise.flat are for x, or all levels have functions of their own.
  ---@return hd.Tensor x
  ---@return table<string, hd.Tensor>? pictures
  function Hierarchy:sample(models, n, opts)
    local o = check.options("H:sample", opts, OPTIONS)
    if models ~= nil then self:check_models("H:sample", models) end
    if o.weak then self:check_models("H:sample: weak", o.weak) end
    local _ <close> = core.no_grad()
    o.clocks = o.clocks or (o.regime == nil and self.clocks) or nil
    o.regime = o.regime or (models and models.regime) or self.regime
    o.lag = o.lag or self.lag
    check_options(self, o, n)
    if n > o.batch then
      o.count = n
      if o.clocks then o.regime = nil end
      return sample_batches(self, models, n, o)
    end
    if models and not o.clocks then
      self:check_regime("H:sample", models, o.regime)
    elseif models and o.clocks ~= self.clocks and models.regime ~= "free" then
      check.fail("H:sample", "own clocks need networks of the regime 'free': got '%s'", models.regime)
    end
    -- a cascade's networks were trained on a noisy context
    local cascade = (models and models.regime or o.regime) == "cascade"
    o.t_aug = o.t_aug or (cascade and self.t_aug_sample or 0)
    o.labels = self:check_labels("H:sample", models, o.labels, n)
    o.guidance, o.start_from = read_guidance(self, o), read_start(self, o.start_from, n)
    o.inpaint = read_inpaint(self, o.inpaint, n)
    if o.regime == "flat" and not by_levels(self, o) then
      local x = sample_flat(self, models, n, o)
      return x, o.all and self:pictures(x) or nil
    end
    local z = draw_levels(self, models, self.levels, n, o)
    if self.project then z = self.project(z) end
    local x = pasted(self:join(z), o)
    return x, o.all and pictures(self, o.inpaint and self:split(x) or z) or nil
  end
end
