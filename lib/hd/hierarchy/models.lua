-- hd/hierarchy/models.lua: the networks of a hierarchy: one per level, or one that all levels share.
-- A level's network sees its own noisy coordinates, the levels of its context (all coarser ones in a cascade, all
-- others elsewhere, unless declared) and the times of all of them.

local class = require "hd.class"
local check = require "hd.check"
local core = require "hd.core"
local nn = require "hd.nn"
local MeanBypass = require "hd.hierarchy.bypass"
local weights = require "hd.nn.weights"

---@class hd.hierarchy.Models : hd.nn.Module
---@field regime string
---@field classes integer?  classes that the networks are told
local Models = class("Models", nn.Module)

--- The parameters of each network as groups of an optimizer, in the order of the levels.
---
---     local opt = hd.optim.AdamW(models:param_groups { textures = { lr = 5e-4 } }, { lr = 1e-3 })
---
---@param settings? table<string, table>  { level = { lr = ... } }: what differs from the optimizer's own options
---@return table[]
function Models:param_groups(settings)
  check.arg("models:param_groups", "settings", settings or {}, "table")
  local groups, known = {}, {}
  for i, name in ipairs(self._plan.nets) do
    local net, heads = self[name], self.uncertainty
    if heads and not self.share then heads = heads[name] end -- a shared network has the heads of all levels
    groups[i] = { params = type(net) == "table" and net:parameters() or {} } -- functions have none
    for _, p in ipairs(heads and heads:parameters() or {}) do table.insert(groups[i].params, p) end
    known[name] = groups[i]
  end
  for name, own in next, settings or {} do -- order free: separate keys
    if not known[name] then
      check.fail("models:param_groups", "there is no network %s. %s", check.show(name),
        check.suggestion(name, self._plan.nets))
    end
    for key, value in next, check.arg("models:param_groups", name, own, "table") do -- order free: separate keys
      known[name][key] = value
    end
  end
  return groups
end

-- ln of the error that is to be expected at each time [n].
function Models:uncertainty_of(level, time) return self.uncertainty[level.name](time):squeeze(2) end

--- The network of a level ("flat" in the flat regime).
---@param name string
---@return hd.nn.Module
function Models:net(name)
  local net = self[name]
  if name ~= "flat" and self.shared then net = self.shared end
  if not net then
    check.fail("models", "there is no network for '%s': these models were made for the regime '%s'", name, self.regime)
  end
  return net
end

-- Shapes in the coordinates in which the network works.
local function frame_shape(self, level)
  local shape = self.shapes[level.name]
  if not level.frame then return shape end
  local z = level.frame.to(core.zeros { 1, table.unpack(shape) })
  return table.move(z:shape(), 2, z:dim(), 1, {})
end

-- What a level's network takes and gives: times; tokens for mask levels; for others channels in and out, rank and
-- extents, and the channels of its context: on its grid, pooled (two numbers each), as tokens.
local function spec_of(self, level, names, token_width)
  if level.kind == "mask" then
    local length = 0
    for _, name in ipairs(level.blank and {} or names) do length = length + self.shapes[name][1] end
    return { vocab = level.vocab, length = length + self.shapes[level.name][1], times = 1 + #names }
  end
  local shape = frame_shape(self, level)
  local spec = { channels = shape[1], context = 0, times = 1 + #names, dims = #shape - 1,
    extents = table.move(shape, 2, #shape, 1, {}) }
  for _, name in ipairs(names) do
    local channels, way = self.shapes[name][1], level.context_by[name]
    if way == "concat" then spec.context = spec.context + channels end
    if way == "film" then spec.vector = (spec.vector or 0) + 2 * channels end
    if way == "attention" then spec.tokens = token_width end
  end
  return spec
end

-- Channels of context tokens: the most that any level has, and its positions.
local function widest_tokens(self)
  local width = 0
  for _, level in ipairs(self.levels) do
    if level.kind == "gaussian" then
      local shape = self.shapes[level.name]
      width = math.max(width, shape[1] + #shape - 1)
    end
  end
  return width
end

-- Channels of a U-Net's levels: halve the grid while it is larger than 4 and even, three levels at most.
local function block_channels(extents, width)
  local blocks, factor, largest, even = { width }, 1, 0, true
  repeat
    for _, e in ipairs(extents) do
      largest = math.max(largest, e)
      even = even and e % (2 * factor) == 0
    end
    local halve = even and largest >= 8 * factor and #blocks < 3
    if halve then
      blocks[#blocks + 1] = 2 * width
      factor = 2 * factor
    end
  until not halve
  return blocks
end

-- The largest number of groups, 8 at most, that divides the channels.
local function norm_groups(width)
  local groups = math.min(8, width)
  while width % groups ~= 0 do groups = groups - 1 end
  return groups
end

local function make_unet(spec, o)
  local blocks = block_channels(spec.extents, o.width)
  local types, dims = {}, spec.dims .. "D"
  for i = 1, #blocks do types[i] = "DownBlock" .. dims end
  return nn.UNet {
    dims = spec.dims, in_channels = spec.channels + spec.context, out_channels = spec.channels,
    block_out_channels = blocks, layers_per_block = o.depth, down_block_types = types, num_attention_heads = 4,
    norm_num_groups = norm_groups(o.width), time_inputs = spec.times, zero_init = true,
    num_class_embeds = spec.labels, time_embed_dim = math.max(64, 4 * o.width), fuse_qkv = true,
    vector_channels = spec.vector, cross_attention_dim = spec.tokens,
  }
end

-- One token more than the vocabulary: the mask.
local function make_transformer(spec, o)
  return nn.Transformer {
    vocab_size = spec.vocab + 1, out_size = spec.vocab, max_length = spec.length, dim = o.width, depth = o.depth,
    heads = math.max(1, o.width // 32), time_inputs = spec.times, time_dim = 64, num_class_embeds = spec.labels,
    conv_kernel = 5,
  }
end

local NETS = { "auto", "unet", "transformer" }

local function make_net(spec, o)
  if type(o.net) ~= "string" then return o.net(spec, o) end
  if o.net == "transformer" or (o.net == "auto" and spec.vocab) then return make_transformer(spec, o) end
  return make_unet(spec, o)
end

-- The same, with means of its own where the level asks for it.
local function make_level_net(level, spec, o)
  local net = make_net(spec, o)
  return level and level.mean_bypass and MeanBypass(net, spec.channels) or net
end

-- Channels of a level's network by those of H:models.
local function level_width(level, width) return math.max(1, math.floor(width * level.width + 0.5)) end

-- Width and depth of a network for these levels: { name = channels }, or a number, which a level's own factor changes.
local function net_options(o, name, spec, levels)
  local width = type(o.width) == "table" and (o.width[name] or 64) or o.width
  check.arg("models", "width", width, "integer")
  if #levels == 1 and type(o.width) == "number" then width = level_width(levels[1], width) end
  return { net = o.net, width = width, depth = o.depth or (spec.vocab and 2 or 1) }
end

-- One network for all levels takes the most channels that any of them has; the rest is filled with zeros.
local function shared_spec(specs)
  local shared, extents = { levels = #specs, times = 1 + #specs }, {}
  for _, spec in ipairs(specs) do
    for _, key in ipairs { "channels", "context", "dims", "vocab", "length", "vector", "tokens" } do
      if spec[key] then shared[key] = math.max(shared[key] or 0, spec[key]) end
    end
    for _, e in ipairs(spec.extents or {}) do extents[#extents + 1] = e end
  end
  if #extents > 0 then shared.extents = extents end
  return shared
end

-- What a level sees, by level: names and the ways in which they enter.
local function contexts(self, regime)
  local sees, ways = { flat = {} }, { flat = {} }
  for _, level in ipairs(self.levels) do
    sees[level.name], ways[level.name] = self:context_of(level, regime), level.context_by
  end
  return sees, ways
end

local function check_shareable(self)
  for _, level in ipairs(self.levels) do
    if level.kind ~= self.levels[1].kind then
      check.fail("models", "share is for levels of one kind: '%s' is of kind %s", level.name, level.kind)
    end
    for name, way in next, level.context_by do -- order free: any will do
      if way ~= "concat" then
        check.fail("models", "share is for contexts that are concatenated: '%s' sees '%s' by %s", level.name, name, way)
      end
    end
  end
end

-- ln of a level's expected error by its time: Fourier features and a linear layer that begins at 0.
local function uncertainty_head()
  local linear = nn.Linear(32, 1)
  weights.zero(linear)
  return nn.Sequential { nn.Timesteps(32), linear }
end

-- Put in a network under its name, and the heads of the levels that it is for.
local function add_net(models, name, spec, o, levels)
  spec.labels = o.classes and (spec.levels or 1) * (o.classes + 1) or spec.levels
  models[name] = make_level_net(not models.share and levels[1], spec, net_options(o, name, spec, levels))
  table.insert(models._plan.nets, name)
  for _, level in ipairs(o.uncertainty and levels or {}) do models.uncertainty[level.name] = uncertainty_head() end
end

local function flat_spec(self)
  local shape = self.shape
  return { channels = shape[1], context = 0, times = 1, dims = #shape - 1,
    extents = table.move(shape, 2, #shape, 1, {}) }
end

return function(Hierarchy)
  --- Channels of a level's network where H:models is given one number.
  ---@param name string
  ---@param width integer
  ---@return integer
  function Hierarchy:width_of(name, width)
    return level_width(self:level(name), check.arg("H:width_of", "width", width, "integer"))
  end

  -- What H:models made.
  function Hierarchy.check_models(_, where, models)
    if type(models) ~= "table" or type(models._plan) ~= "table" then
      check.fail(where, "models is wrong: got %s, expected what H:models{} gives", check.show(models))
    end
  end

  -- Networks know the times that their regime showed them; those of `free` any.
  function Hierarchy:check_regime(where, models, regime)
    local own = models.regime
    if own == regime or (own == "free" and regime ~= "flat") then return end
    if own == "flat" or regime == "flat" then models:net(regime == "flat" and "flat" or self.levels[1].name) end
    check.fail(where, "regime '%s' does not fit: these models were made for the regime '%s'", regime, own)
  end

  --- Make the networks.
  ---@param opts? table  net: "auto" (a U-Net for numbers, a transformer for tokens), "unet", "transformer" or a
  ---  function (spec, opts) -> layer; width (64; by name, or one number, which the levels' own factors change) and
  ---  depth (blocks per level, 1; of a transformer 2); regime (the hierarchy's); share: one network that is told the
  ---  level (false); levels: names of those to make networks for (all), to train a level at a time; classes: how many
  ---  labels there are; uncertainty: weigh each level's loss by an error that is learned with it (false)
  ---@return hd.hierarchy.Models
  function Hierarchy:models(opts)
    local o = check.options("models", opts, {
      { "net", "string|callable", "auto" }, { "width", "integer|table", 64 }, { "depth", "integer" },
      { "regime", self.regimes, self.regime }, { "share", "boolean", false }, { "levels", "table" },
      { "classes", "integer" }, { "uncertainty", "boolean", false },
    })
    if type(o.net) == "string" then check.one_of("models", "option 'net'", o.net, NETS) end
    if type(o.width) == "table" then self:names_in(o.width) end
    if not self.shapes then
      check.fail("models", "the shapes of the levels are not known yet: call H:check(data) or H:fit_stats(data) before")
    end
    if o.classes and o.classes < 1 then
      check.fail("models", "classes is wrong: got %d, expected at least 1", o.classes)
    end
    local models = Models()
    models.regime, models.classes = o.regime, o.classes
    local sees, ways = contexts(self, o.regime)
    local plan = { nets = {}, sees = sees, ways = ways, token_width = widest_tokens(self),
      by_name = self.by_name }
    models._plan = plan
    if o.uncertainty then models.uncertainty = nn.Module() end
    plan.options = { width = o.width, depth = o.depth, regime = o.regime, share = o.share, levels = o.levels,
      classes = o.classes, uncertainty = o.uncertainty, net = type(o.net) == "string" and o.net or nil }
    if o.regime == "flat" then
      add_net(models, "flat", flat_spec(self), o, { self:flat_level() })
      return models
    end
    local specs = {}
    for i, level in ipairs(self.levels) do
      specs[i] = spec_of(self, level, sees[level.name], plan.token_width)
    end
    if o.share then
      check_shareable(self)
      models.share, plan.places = true, self:level_names()
      local spec = shared_spec(specs)
      add_net(models, "shared", spec, o, self.levels)
      plan.channels_in, plan.context_in = spec.channels, spec.context
      return models
    end
    local wanted = {}
    for _, name in ipairs(o.levels or self:level_names()) do wanted[self:level(name).name] = true end
    for i, level in ipairs(self.levels) do
      if wanted[level.name] then add_net(models, level.name, specs[i], o, { level }) end
    end
    return models
  end

  Hierarchy.Models = Models
end
