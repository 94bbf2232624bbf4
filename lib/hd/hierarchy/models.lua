-- hd/hierarchy/models.lua: the networks of a hierarchy: one per level, or one that all levels share.
-- A level's network sees its own noisy coordinates, the coarser levels of its context brought to the same grid, the
-- level's time and the noise that was put on the context.

local class = require "hd.class"
local check = require "hd.check"
local core = require "hd.core"
local nn = require "hd.nn"

---@class hd.hierarchy.Models : hd.nn.Module
---@field regime string
local Models = class("Models", nn.Module)

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

-- What a level's network takes and gives: channels in and out, rank and extents; tokens for mask levels.
local function spec_of(self, level)
  if level.kind == "mask" then
    local length = 0
    for _, name in ipairs(level.context) do length = length + self.shapes[name][1] end
    return { vocab = level.vocab, length = length + self.shapes[level.name][1] }
  end
  local shape = frame_shape(self, level)
  local context = 0
  for _, name in ipairs(level.context) do context = context + self.shapes[name][1] end
  return { channels = shape[1], context = context, dims = #shape - 1, extents = table.move(shape, 2, #shape, 1, {}) }
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
    norm_num_groups = norm_groups(o.width), time_inputs = spec.context > 0 and 2 or 1, zero_init = true,
    num_class_embeds = spec.levels, time_embed_dim = math.max(64, 4 * o.width), fuse_qkv = true,
  }
end

-- One token more than the vocabulary: the mask.
local function make_transformer(spec, o)
  return nn.Transformer {
    vocab_size = spec.vocab + 1, out_size = spec.vocab, max_length = spec.length, dim = o.width, depth = o.depth,
    heads = math.max(1, o.width // 32), time_inputs = spec.levels and 2 or 1, time_dim = 64,
  }
end

local NETS = { "auto", "unet", "transformer" }

local function make_net(spec, o)
  if type(o.net) ~= "string" then return o.net(spec, o) end
  if o.net == "transformer" or (o.net == "auto" and spec.vocab) then return make_transformer(spec, o) end
  return make_unet(spec, o)
end

-- Width and depth of one network: a number for all, or { name = number }.
local function net_options(o, name, spec)
  local width = type(o.width) == "table" and (o.width[name] or 64) or o.width
  check.arg("models", "width", width, "integer")
  return { net = o.net, width = width, depth = o.depth or (spec.vocab and 2 or 1) }
end

-- One network for all levels takes the most channels that any of them has; the rest is filled with zeros.
local function shared_spec(specs)
  local shared, extents = { levels = #specs }, {}
  for _, spec in ipairs(specs) do
    for _, key in ipairs { "channels", "context", "dims", "vocab", "length" } do
      if spec[key] then shared[key] = math.max(shared[key] or 0, spec[key]) end
    end
    for _, e in ipairs(spec.extents or {}) do extents[#extents + 1] = e end
  end
  if #extents > 0 then shared.extents = extents end
  return shared
end

return function(Hierarchy)
  -- What H:models made, or another object with a `net(name)`.
  function Hierarchy.check_models(_, where, models)
    if type(models) ~= "table" or type(models.net) ~= "function" then
      check.fail(where, "models is wrong: got %s, expected what H:models{} gives", check.show(models))
    end
  end

  --- Make the networks.
  ---@param opts? table  net: "auto" (a U-Net for numbers, a transformer for tokens), "unet", "transformer" or a
  ---  function (spec, opts) -> layer; width (64) and depth (blocks per level, 1; of a transformer 2); regime (the
  ---  hierarchy's); share: one network that is told the level (false)
  ---@return hd.hierarchy.Models
  function Hierarchy:models(opts)
    local o = check.options("models", opts, {
      { "net", "string|callable", "auto" }, { "width", "integer|table", 64 }, { "depth", "integer" },
      { "regime", self.regimes, self.regime }, { "share", "boolean", false },
    })
    if type(o.net) == "string" then check.one_of("models", "option 'net'", o.net, NETS) end
    if type(o.width) == "table" then self:names_in(o.width) end
    if not self.shapes then
      check.fail("models", "the shapes of the levels are not known yet: call H:check(data) or H:fit_stats(data) before")
    end
    local models = Models()
    models.regime = o.regime
    if o.regime == "flat" then
      self:flat_level()
      local shape = self.shape
      local spec = {
        channels = shape[1], context = 0, dims = #shape - 1, extents = table.move(shape, 2, #shape, 1, {}),
      }
      models.flat = make_net(spec, net_options(o, "flat", spec))
      return models
    end
    local specs = {}
    for i, level in ipairs(self.levels) do specs[i] = spec_of(self, level) end
    if o.share then
      for _, level in ipairs(self.levels) do
        if level.kind ~= self.levels[1].kind then
          check.fail("models", "share is for levels of one kind: '%s' is of kind %s", level.name, level.kind)
        end
      end
      models.share = true
      local spec = shared_spec(specs)
      models.shared = make_net(spec, net_options(o, "shared", spec))
      models.channels_in, models.context_in = spec.channels, spec.context
      return models
    end
    for i, level in ipairs(self.levels) do
      models[level.name] = make_net(specs[i], net_options(o, level.name, specs[i]))
    end
    return models
  end

  Hierarchy.Models = Models
end
