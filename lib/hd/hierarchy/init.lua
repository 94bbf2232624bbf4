-- hd/hierarchy/init.lua: hierarchies: data split into levels, coarse to fine, each diffused in its own way.
-- The object knows nothing of images, sound or text: a modality is a pair of functions, split and join.
--
--     local H = hd.hierarchy.new {
--       name = "bands", split = split, join = join, shape = { 1, 64 },
--       levels = { { name = "low" }, { name = "high", steps = 12 } },
--     }
--     H:fit_stats(data)
--     local models = H:models { width = 32 }
--     local loss, parts = H:loss(models, x)
--     local x = H:sample(models, 16, { seed = 1 })
--
-- Calls: hierarchy/stats, models, train, sample, images; hierarchy/split. Called by: users.

local class = require "hd.class"
local check = require "hd.check"
local clock = require "hd.hierarchy.clock"
local core = require "hd.core"
local file = require "hd.hierarchy.file"
local residual = require "hd.hierarchy.split.residual"
local tokens = require "hd.hierarchy.tokens"
local schedule = require "hd.schedule"
local prediction = require "hd.schedule.prediction"

---@class hd.hierarchy.Level
---@field name string
---@field kind string      "gaussian" or "mask"
---@field schedule hd.schedule.Schedule  of gaussian levels, in standardised coordinates
---@field predict string   what the network predicts: "edm", "v", "eps", "x0" or "flow"
---@field context string[] levels that the network sees in the hierarchy's regime
---@field context_by table<string, string>  how each enters: "concat", "film" or "attention"
---@field steps integer    sampling steps
---@field weight number    of the level's loss in the sum
---@field batch_share number  of each batch, for the level's loss
---@field loss_weight function?  how much each noise level counts (hd.schedule.weight)
---@field width number     of its network, as a factor on that of H:models
---@field loss string       "mse" or "huber"
---@field guidance number|table?  of sampling with labels
---@field vocab integer?   of mask levels: tokens are 1 to vocab
---@field blank integer?   the token that stands where another level has one
---@field rate string      of mask levels: how the share of masks falls with time, "linear" or "cosine"

---@class hd.hierarchy.Hierarchy
---@field name string
---@field levels hd.hierarchy.Level[]  coarse to fine
---@field regime string
local Hierarchy = class "Hierarchy"

Hierarchy.regimes = clock.regimes

local LEVEL_OPTIONS = {
  { "name", "string", required = true }, { "kind", { "gaussian", "mask" }, "gaussian" }, { "schedule", "table" },
  { "predict", prediction.kinds, "edm" }, { "context", "table" }, { "steps", "integer", 18 }, { "weight", "number", 1 },
  { "vocab", "integer" }, { "frame", "table" }, { "sampler", "callable" }, { "context_by", "string|table", "concat" },
  { "batch_share", "number", 1 }, { "loss", { "mse", "huber" }, "mse" }, { "guidance", "number|table" },
  { "mean_bypass", "boolean", false }, { "width", "number", 1 },
  { "loss_weight", "callable" }, { "blank", "integer" }, { "rate", { "linear", "cosine" }, "linear" },
}

-- Names that mean something else: the unsplit x, and fields of the models.
local RESERVED = { flat = true, shared = true, share = true, regime = true, classes = true, _plan = true,
  uncertainty = true }

-- The context of a level: the names declared, or all that may be: levels of its kind, in a cascade the coarser ones,
-- since nothing finer exists yet.
local function context_of(levels, level, regime)
  local names, allowed, cascade = {}, {}, regime == "cascade"
  for _, other in ipairs(levels) do
    if other ~= level and other.kind == level.kind and not (cascade and other.index > level.index) then
      names[#names + 1] = other.name
      allowed[other.name] = true
    end
  end
  if not level.declared then return names end
  for _, name in ipairs(level.declared) do
    if not allowed[name] then
      check.fail("hierarchy.new", "level '%s' has '%s' as context: expected %s levels of its kind only (%s)",
        level.name, tostring(name), cascade and "coarser" or "other",
        #names > 0 and table.concat(names, ", ") or "there are none")
    end
  end
  return table.move(level.declared, 1, #level.declared, 1, {})
end

local WAYS = { "concat", "film", "attention" }

-- How every other level would enter: one word for all, or { name = word }.
local function ways_of(levels, level, by)
  local ways = {}
  if type(by) == "string" then check.one_of("hierarchy.new", "option 'context_by'", by, WAYS) end
  for _, other in ipairs(levels) do
    local way = type(by) == "table" and by[other.name] or by
    ways[other.name] = type(way) == "string" and way or "concat"
    check.one_of("hierarchy.new", "context_by." .. other.name, ways[other.name], WAYS)
    if level.kind == "mask" and ways[other.name] ~= "concat" then
      check.fail("hierarchy.new", "level '%s' is of kind mask: its context stands in front of it, context_by is %s",
        level.name, ways[other.name])
    end
  end
  return ways
end

-- Levels that share the positions of a text agree on the token that stands for "not mine".
local function check_blank(level, first)
  if level.blank and (level.kind ~= "mask" or level.blank < 1 or level.blank > level.vocab) then
    check.fail("hierarchy.new", "level '%s': blank is wrong: got %d, expected a token of a level of kind mask",
      level.name, level.blank)
  end
  if first and level.blank ~= first.blank then
    check.fail("hierarchy.new", "level '%s' has a blank of its own: got %s, expected %s as before", level.name,
      tostring(level.blank), tostring(first.blank))
  end
end

local function read_levels(list, regime)
  if #list == 0 then check.fail("hierarchy.new", "there are no levels: got 0, expected at least 1") end
  local levels, seen, vocab = {}, {}, nil
  for i, entry in ipairs(list) do
    local level = check.options(("hierarchy.new: level %d"):format(i), entry, LEVEL_OPTIONS)
    if seen[level.name] then check.fail("hierarchy.new", "two levels have the name '%s'", level.name) end
    if RESERVED[level.name] then check.fail("hierarchy.new", "the name '%s' is taken: use another", level.name) end
    if level.kind == "mask" and not level.vocab then
      check.fail("hierarchy.new", "level '%s' is of kind mask and needs vocab, the number of tokens", level.name)
    end
    vocab = vocab or level.vocab
    if level.vocab and level.vocab ~= vocab then
      check.fail("hierarchy.new", "level '%s' has a vocabulary of its own: got %d tokens, expected %d as before",
        level.name, level.vocab, vocab)
    end
    check_blank(level, levels[1])
    if level.steps < 1 then
      check.fail("hierarchy.new", "level '%s': steps is wrong: got %d, expected at least 1", level.name, level.steps)
    end
    if level.width <= 0 then
      check.fail("hierarchy.new", "level '%s': width is wrong: got %g, expected more than 0", level.name, level.width)
    end
    seen[level.name] = true
    -- p_mean of EDM moved by ln 2, since levels have standard deviation 1 and not 0.5
    level.schedule = level.schedule or schedule.karras { p_mean = -1.2 + math.log(2) }
    level.index, level.declared = i, level.context
    if level.batch_share <= 0 or level.batch_share > 1 then
      check.fail("hierarchy.new", "level '%s': batch_share is wrong: got %g, expected more than 0, at most 1",
        level.name, level.batch_share)
    end
    levels[i] = level
  end
  for _, level in ipairs(levels) do
    level.context, level.context_by = context_of(levels, level, regime), ways_of(levels, level, level.context_by)
  end
  return levels
end

--- Declare a hierarchy.
--- `split` takes a batch x [n, ...] and returns { level name = z [n, ...] }; `join` undoes it. Where `shape` is given
--- (or once data are seen) join(split(x)) = x is checked. Levels, coarse to fine, have: name; kind "gaussian" (default)
--- or "mask" (tokens 1 to `vocab`); schedule (default EDM's); predict (default "edm"); context, the levels that the
--- network sees (default all coarser ones in a cascade, all others elsewhere), and context_by, how they enter: "concat"
--- (default), "film" (pooled) or "attention", or { name = word }; steps (18), sampler (hd.sampler.heun) and guidance;
--- weight of its loss (1), loss ("mse" or "huber"), loss_weight (one of hd.schedule.weight, by noise level) and
--- batch_share, the part of each batch that it is trained on (1);
--- mean_bypass: means over all positions by a path of their own, against colour casts of large pictures (false);
--- width: of its network, as a factor on that of H:models (1), since a level on a fine grid costs most;
--- blank: a token for positions that belong to another level, where levels of kind mask have the same positions; what
--- coarser ones have is then laid over the tokens that the network sees; rate: how the share of masks falls with time,
--- "linear" (default) or "cosine" (fewer are lifted at the beginning);
--- frame { to =, from = }, an isometry into the coordinates in which the network works and its adjoint.
---
--- The regime says when each level is noisy. With progress u from 1 (noise) to 0: "flat" x as a whole, "cascade" level
--- after level, "joint" all together, "staggered" in windows that overlap, "free" trained for any. An own regime is a
--- function `clocks`, from u to { name = time }, times from 1 (noise) to 0, none rising as u falls.
---@param opts table  name, split, join, levels, shape (of one x), regime ("cascade"), clocks, lag (by how much of a
---  level's run the coarser one leads when staggered, 0.3), t_aug (largest noise put on the context in training, in a
---  cascade, 0.3), t_aug_sample (the noise put on it in sampling, 0), range ({ low, high } of x, to which estimates are
---  limited, joined with the coarser levels, the finer ones at 0), project (a function from levels to levels that takes
---  away what contradicts, called before join in sampling)
---@return hd.hierarchy.Hierarchy
function Hierarchy:init(opts)
  local o = check.options("hierarchy.new", opts, {
    { "name", "string", "hierarchy" }, { "split", "callable", required = true },
    { "join", "callable", required = true }, { "levels", "table", required = true }, { "shape", "table" },
    { "regime", Hierarchy.regimes, "cascade" }, { "t_aug", "number", 0.3 }, { "t_aug_sample", "number", 0 },
    { "range", "table" }, { "clocks", "callable" }, { "lag", "number", 0.3 }, { "project", "callable" },
  })
  if o.lag < 0 or o.lag > 1 then check.fail("hierarchy.new", "lag is wrong: got %g, expected 0 to 1", o.lag) end
  if o.clocks and o.regime == "flat" then check.fail("hierarchy.new", "clocks are of levels: regime flat has none") end
  self.name, self.split_fn, self.join_fn, self.range, self.project = o.name, o.split, o.join, o.range, o.project
  self.t_aug, self.t_aug_sample, self.lag, self.clocks = o.t_aug, o.t_aug_sample, o.lag, o.clocks
  -- networks of own clocks see all others, as those of `joint` do
  self.regime = o.clocks and opts.regime == nil and "joint" or o.regime
  self.levels, self.by_name, self.stats = read_levels(o.levels, self.regime), {}, {}
  self.shifts = {}
  for _, level in ipairs(self.levels) do self.by_name[level.name] = level end
  if o.shape then self:check(self:random(2, o.shape)) end
end

-- What the network of a level sees in a regime.
function Hierarchy:context_of(level, regime) return context_of(self.levels, level, regime) end

-- A random batch of the declared shape: numbers, or tokens where the first level is of kind mask.
function Hierarchy:random(n, shape)
  local first, full, rng = self.levels[1], { n, table.unpack(shape) }, core.rng(0, 1)
  if first.kind == "mask" then
    local x = core.randint(1, first.blank and first.vocab - 1 or first.vocab, full, { rng = rng })
    return first.blank and x + x:ge(first.blank):to "i64" or x -- none is blank
  end
  return core.randn(full, { rng = rng })
end

--- A level by name, or an error that lists the names.
---@param name string
---@return hd.hierarchy.Level
function Hierarchy:level(name)
  local level = self.by_name[name]
  if level then return level end
  local known = check.suggestion(name, self:level_names())
  return check.fail("hierarchy", "there is no level %s. %s", check.show(name), known)
end

--- The levels' names, coarse to fine.
---@return string[]
function Hierarchy:level_names()
  local names = {}
  for i, level in ipairs(self.levels) do names[i] = level.name end
  return names
end

-- The keys of a table that is told by level, sorted: levels, or "flat" for the unsplit x; another is an error.
function Hierarchy:names_in(t)
  local names = {}
  for name in next, check.arg("hierarchy", "what is told by level", t, "table") do -- order free: sorted below
    names[#names + 1] = tostring(name)
  end
  table.sort(names)
  for _, name in ipairs(names) do
    if name ~= "flat" then self:level(name) end
  end
  return names
end

-- Remember the shapes of x and of the levels; they stay what they were first.
local function remember_shapes(self, x, z)
  if self.shape then return end
  self.shape, self.shapes = table.move(x:shape(), 2, x:dim(), 1, {}), {}
  local numbers = 0
  for _, level in ipairs(self.levels) do
    self.shapes[level.name] = table.move(z[level.name]:shape(), 2, z[level.name]:dim(), 1, {})
    numbers = numbers + z[level.name]:numel()
  end
  self.redundant = numbers ~= x:numel()
end

--- Split a batch into levels, in the data's own units.
---@param x hd.Tensor  [n, ...]
---@return table<string, hd.Tensor>
function Hierarchy:split(x)
  local z = check.arg("hierarchy:split", "what split gave", self.split_fn(x), "table")
  for _, level in ipairs(self.levels) do
    if not check.is_tensor(z[level.name]) then
      check.fail("hierarchy:split", "split gave %s for level '%s', expected a tensor", check.show(z[level.name]),
        level.name)
    end
  end
  if #self:names_in(z) > #self.levels then check.fail("hierarchy:split", "split gave 'flat', which is no level") end
  remember_shapes(self, x, z)
  return z
end

--- Join levels into a batch.
---@param z table<string, hd.Tensor>
---@return hd.Tensor
function Hierarchy:join(z)
  check.arg("hierarchy:join", "z", z, "table")
  for _, level in ipairs(self.levels) do
    check.arg("hierarchy:join", ("level '%s'"):format(level.name), z[level.name], "tensor")
  end
  return self.join_fn(z)
end

-- A batch of tensors from a data set, or a tensor as it is.
local function batch_of(data, n)
  if check.is_tensor(data) then return data:size(1) > n and data:narrow(1, 1, n) or data end
  if type(data) ~= "table" or not check.is_tensor(data.x) then
    check.fail("hierarchy", "data is wrong: got %s, expected a tensor or a data set", check.show(data))
  end
  if #data == 0 then check.fail("hierarchy", "the data set is empty") end
  local x = data.x:narrow(1, 1, math.min(n, #data))
  return x:dtype() == "u8" and x:to "f32" * (1 / 127.5) - 1 or x -- tokens stay as they are
end
-- For stats.lua, which measures on the same pictures as check.
Hierarchy.batch_of = function(_, data, n) return batch_of(data, n) end

-- Where two tensors differ most, and by how much.
local function largest_difference(got, expected)
  local flat = (got - expected):reshape(-1)
  flat = core.op.where(flat:eq(flat), flat:abs(), core.full({}, math.huge, { dtype = flat:dtype() }))
  local at, position, shape = flat:argmax():item() - 1, {}, expected:shape()
  for d = #shape, 1, -1 do
    position[d] = at % shape[d] + 1
    at = at // shape[d]
  end
  return ("most at [%s]: got %g, expected %g"):format(table.concat(position, ","),
    got:get(table.unpack(position)), expected:get(table.unpack(position)))
end

--- Check on data that join undoes split: to 1e-5 (relative, in L2) for floats, exactly for whole numbers.
---@param data hd.Tensor|hd.data.Set  a batch, or a set of which the first 64 entries are used
---@return number error  the relative error found
function Hierarchy:check(data)
  local _ <close> = core.no_grad()
  local x = batch_of(data, 64)
  local back = self:join(self:split(x))
  if table.concat(back:shape(), ",") ~= table.concat(x:shape(), ",") then
    check.fail("hierarchy:check", "join(split(x)) has another shape: got [%s], expected [%s]",
      table.concat(back:shape(), ","), table.concat(x:shape(), ","))
  end
  if x:dtype():sub(1, 1) ~= "f" then
    local wrong = x:ne(back):sum():item()
    if wrong > 0 then
      check.fail("hierarchy:check", "join(split(x)) differs from x in %d of %d elements", wrong, x:numel())
    end
    return 0.0
  end
  local difference = (back - x):norm():item() / math.max(x:norm():item(), 1e-30)
  if difference > 1e-5 or difference ~= difference then
    check.fail("hierarchy:check", "join(split(x)) is not x: relative difference %.3g, expected at most 1e-5; %s",
      difference, largest_difference(back, x))
  end
  return difference
end

function Hierarchy:__tostring()
  local lines = { ("%s (%s)"):format(self.name, self.regime) }
  for _, level in ipairs(self.levels) do
    local shape = self.shapes and "[" .. table.concat(self.shapes[level.name], ",") .. "]" or "shape not known yet"
    local sees = #level.context > 0 and table.concat(level.context, ", ") or "nothing else"
    lines[#lines + 1] = ("  %-10s %-8s %-12s sees %s%s"):format(level.name, level.kind, shape, sees,
      self:stats_line(level.name))
  end
  return table.concat(lines, "\n")
end

require "hd.hierarchy.stats" (Hierarchy)
require "hd.hierarchy.models" (Hierarchy)
require "hd.hierarchy.train" (Hierarchy)
require "hd.hierarchy.sample" (Hierarchy)
Hierarchy.save = file.save
class.guard(Hierarchy, {
  "save", "consistency", "drift", "level", "level_names", "split", "join", "check", "fit_stats", "set_stats",
  "stats_dict", "load_stats_dict", "state_dict", "load_state_dict", "standardise", "unstandardise", "models", "loss",
  "pictures", "sample", "width_of", "bound",
})

local audio = file.register("audio", function(opts) return require "hd.hierarchy.audio" (Hierarchy, opts) end)
local images = file.register("images", function(opts) return require "hd.hierarchy.images" (Hierarchy, opts) end)
local text = file.register("text", function(opts) return require "hd.hierarchy.text" (Hierarchy, opts) end)

return {
  new = Hierarchy,
  Hierarchy = Hierarchy,
  --- Sounds as frequency bands, band1 the lowest, all of one rate: [bins of the band, frames]. A shared network is not
  --- needed: bins are channels of networks over time.
  ---@param opts? table  rate (8000), length (8192 frames, a multiple of bins, two at least); bands (3): how many,
  ---                    octaves below the highest, or their upper edges in Hz but for the last one's; bins (64):
  ---                    frequencies that rate / 2 is divided into; transform: "mdct" (default) or "packet" (bins a
  ---                    power of two); window of the MDCT ("sine" or "kbd"), wavelet of the packets ("db8"); regime,
  ---                    lag; schedule (one for all levels); predict ("edm"); t_aug (0.3), t_aug_sample (0)
  ---@return hd.hierarchy.Hierarchy
  audio = function(opts) return audio(opts) end,
  --- Pictures as shapes (low-pass luma), colours (chroma) and textures (details).
  ---@param opts? table  size (32; where 2^steps does not divide it, pictures are reflected beyond their ends, and
  ---                    H.crop says from which size to which); channels: 3, or 1 for grey pictures, which have no
  ---                    colours; steps: wavelet steps (2); wavelet: "haar" (default) or "db2" to "db8"; regime, lag;
  ---                    schedule (one for all levels); predict ("edm"); t_aug (0.3), t_aug_sample (0)
  ---@return hd.hierarchy.Hierarchy
  images = function(opts) return images(opts) end,
  --- Texts as sentences, phrases and words, each level with the positions of the text: what ends sentences (of words
  --- also the rarest in each sentence), what parts phrases (also the rarest word of each phrase), and the rest.
  ---
  ---     local set = hd.data.text("book.txt", { length = 128 })
  ---     local H = hd.hierarchy.text { vocabulary = set.vocabulary, length = 128 }
  ---     local models = H:models { width = 256, depth = 4, share = true }
  ---
  ---@param opts table  vocabulary: a hd.text.Vocabulary, or its state; length: tokens of a text (128); levels: 3, 2
  ---                   (phrase and word) or 1 (word: not ordered by level); rate: "linear" or "cosine"; steps (64);
  ---                   regime, lag; t_aug (0)
  ---@return hd.hierarchy.Hierarchy H  with the field `vocabulary`
  text = function(opts) return text(opts) end,
  unmask = tokens.unmask,
  register = file.register,
  load = file.load,
  residual = residual.residual,
  summary = residual.summary,
  autoencoder = require "hd.hierarchy.split.autoencoder",
  wavelet = require "hd.hierarchy.split.wavelet",
  haar = require "hd.hierarchy.split.haar",
  colour = require "hd.hierarchy.split.colour",
  mdct = require "hd.hierarchy.split.mdct",
  packet = require "hd.hierarchy.split.packet",
  partition = require "hd.hierarchy.split.partition",
}
