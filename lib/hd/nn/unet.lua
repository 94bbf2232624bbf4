-- hd/nn/unet.lua: U-Nets from one table, for signals and images.
-- Options and names of weights are those of diffusers' UNet2DModel; dims, kernel_size, down, time_dim, time_embed_dim,
-- time_inputs and a few more are ours. Files of that class load where the structure is the same.
-- Source: Ho et al. 2020, after Ronneberger et al. 2015.

local class = require "hd.class"
local check = require "hd.check"
local core = require "hd.core"
local conv = require "hd.nn.conv"
local weights = require "hd.nn.weights"
local activation = require "hd.nn.activation"
local embedding = require "hd.nn.embedding"
local GroupNorm = require "hd.nn.norm".GroupNorm
local ResBlock = require "hd.nn.resblock".ResBlock
local AttentionBlock = require "hd.nn.attention".AttentionBlock
local Module = require "hd.nn.module".Module

local OPTIONS = {
  { "dims", "integer", 2 }, { "sample_size", "size" }, { "in_channels", "integer", 3 },
  { "out_channels", "integer", 3 }, { "block_out_channels", "size", { 64, 128, 128 } },
  { "layers_per_block", "integer", 2 }, { "down_block_types", "table" }, { "up_block_types", "table" },
  { "add_attention", "boolean", true }, { "attention_head_dim", "integer", 8 }, { "num_attention_heads", "integer" },
  { "fuse_qkv", "boolean", false }, { "norm_num_groups", "integer", 32 }, { "norm_eps", "number", 1e-5 },
  { "act_fn", activation.names, "silu" }, { "dropout", "number", 0 },
  { "resnet_time_scale_shift", { "default", "scale_shift" }, "default" }, { "kernel_size", "integer", 3 },
  { "down", "integer", 2 }, { "down_kernel_size", "integer" }, { "downsample_padding", "integer" },
  { "num_class_embeds", "integer" }, { "zero_init", "boolean", false }, { "gradient_checkpointing", "boolean", false },
  { "vector_channels", "integer" }, { "cross_attention_dim", "integer" },
}
for _, entry in ipairs(embedding.TIME_OPTIONS) do OPTIONS[#OPTIONS + 1] = entry end

-- Parts -----------------------------------------------------------------------------------------------------------

local function conv_of(o) return o.dims == 1 and conv.Conv1d or conv.Conv2d end

-- A convolution with stride `down`; the extents must not be rounded up, as in PyTorch. Padding 0 with kernel 3 pads the
-- far sides alone, as diffusers does.
local Downsample = class("Downsample", Module)

function Downsample:init(channels, o)
  local kernel = o.down_kernel_size or (o.down == 2 and 3 or o.down)
  local padding = o.downsample_padding or (kernel - o.down + 1) // 2
  self.conv = conv_of(o)(channels, channels, kernel, { stride = o.down, padding = padding })
  if padding == 0 and kernel > o.down then
    self.far_pad = {}
    for d = 1, o.dims do self.far_pad[2 * d - 1], self.far_pad[2 * d] = 0, kernel - o.down end
  end
end

function Downsample:forward(x)
  if self.far_pad then x = core.op.pad(x, self.far_pad) end
  return self.conv(x)
end

-- Nearest neighbours to the extents of the skip that comes next (so odd sizes work), then a convolution.
local Upsample = class("Upsample", Module)

function Upsample:init(channels, o)
  self.conv = conv_of(o)(channels, channels, o.kernel_size, { padding = o.kernel_size // 2 })
end

-- [factor * taps, kernel]: row (tap - 1) * factor + phase adds up the elements of the kernel that meet the same pixel
-- of a signal whose pixels stand `factor` times each; phase: place within these. Also how many taps lie on either side.
local function fold_matrix(kernel, factor, dtype)
  local reach = (kernel // 2 + factor - 1) // factor
  local rows = {}
  for row = 1, (2 * reach + 1) * factor do
    rows[row] = {}
    for r = 1, kernel do
      local tap = ((row - 1) % factor + r - 1 - kernel // 2) // factor + reach
      rows[row][r] = tap == (row - 1) // factor and 1 or 0
    end
  end
  return core.tensor(rows, { dtype = dtype }), reach
end

-- The same on a signal, for a whole factor, without the enlarged signal: at each place within a pixel the convolution
-- reads few neighbours of the small signal, through sums of weights. The `factor` results of a pixel lie side by side
-- in memory, channels fastest, and so are neighbours of the large signal.
local function upsample_signal(self, x, factor)
  local n, channels, length = table.unpack(x:shape())
  local kernel = self.conv.kernel_size[1]
  local fold, reach = fold_matrix(kernel, factor, x:dtype())
  local taps = 2 * reach + 1
  local weight = fold:matmul(self.conv.weight:permute(3, 2, 1):reshape(kernel, channels * channels))
  weight = weight:view(taps, factor, channels, channels):transpose(2, 3):reshape(taps, channels, factor * channels)
  local bias = self.conv.bias:expand(factor, channels):reshape(factor * channels)
  local y = core.op.conv1d(x, weight:permute(3, 2, 1), bias, { padding = reach })
  return y:transpose(2, 3):reshape(n, factor * length, channels):transpose(2, 3)
end

function Upsample:forward(x, size)
  local factor = size[1] // x:size(3)
  if #size == 1 and size[1] == factor * x:size(3) then return upsample_signal(self, x, factor) end
  return self.conv(core.op.interpolate(x, { size = size, mode = "nearest" }))
end

local function res_block(in_channels, out_channels, o)
  return ResBlock(in_channels, out_channels, {
    dims = o.dims, kernel_size = o.kernel_size, time_embed_dim = o.time_embed_dim, act_fn = o.act_fn,
    norm_num_groups = o.norm_num_groups, norm_eps = o.norm_eps, dropout = o.dropout, zero_init = o.zero_init,
    time_scale_shift = o.resnet_time_scale_shift == "scale_shift",
  })
end

local function attention_block(channels, o)
  return AttentionBlock(channels, {
    heads = o.num_attention_heads or math.max(1, channels // o.attention_head_dim), fuse_qkv = o.fuse_qkv,
    norm_num_groups = math.min(o.norm_num_groups, channels), norm_eps = o.norm_eps, zero_init = o.zero_init,
  })
end

-- One level: res blocks for the given pairs of channels, each with attention after it where the level has it.
local Block = class("Block", Module)

function Block:init(pairs_of_channels, with_attention, o)
  local resnets, attentions = {}, {}
  for i, channels in ipairs(pairs_of_channels) do
    resnets[i] = res_block(channels[1], channels[2], o)
    attentions[i] = with_attention and attention_block(channels[2], o) or nil
  end
  self.resnets = resnets
  if with_attention then self.attentions = attentions end
end

-- The i-th res block, of x and what is joined to it, and its attention.
local function step(self, i, x, time, skip)
  x = self.resnets[i](x, time, skip)
  return self.attentions and self.attentions[i] and self.attentions[i](x) or x
end

function Block:step(...)
  if self.gradient_checkpointing then return core.checkpoint(step, self, ...) end
  return step(self, ...)
end

-- Levels called by the U-Net: each keeps its forward here, so that messages name the level.
local DownBlock, MidBlock, UpBlock = class("DownBlock", Block), class("MidBlock", Block), class("UpBlock", Block)

-- Appends each result to skips.
function DownBlock:forward(x, time, skips)
  for i = 1, #self.resnets do
    x = self:step(i, x, time)
    skips[#skips + 1] = x
  end
  if self.downsamplers then
    x = self.downsamplers[1](x)
    skips[#skips + 1] = x
  end
  return x
end

function MidBlock:forward(x, time, tokens)
  x = self:step(1, x, time)
  if tokens then x = self.cross_attention(x, tokens) end
  return self:step(2, x, time)
end

local function spatial(x) return table.move(x:shape(), 3, x:dim(), 1, {}) end

-- Takes its skips from the end of the list.
function UpBlock:forward(x, time, skips)
  for i = 1, #self.resnets do
    x = self:step(i, x, time, table.remove(skips))
  end
  if not self.upsamplers then return x end
  local size = spatial(skips[#skips])
  if self.gradient_checkpointing then return core.checkpoint(self.upsamplers[1], x, size) end
  return self.upsamplers[1](x, size)
end

-- The model -------------------------------------------------------------------------------------------------------

---@class hd.nn.UNet : hd.nn.Module
local UNet = class("UNet", Module)

-- Which levels have attention, from block types such as "AttnDownBlock2D"; `word` is "Down" or "Up".
local function attention_levels(types, word, levels)
  local flags = {}
  for i, name in ipairs(types) do
    local bare = check.arg("UNet", "block type", name, "string"):gsub("[12]D$", "")
    check.one_of("UNet", word:lower() .. " block type", bare, { word .. "Block", "Attn" .. word .. "Block" })
    flags[i] = bare:sub(1, 4) == "Attn"
  end
  if #flags ~= levels then
    check.fail("UNet", "%s_block_types has %d entries, expected %d as block_out_channels", word:lower(), #flags, levels)
  end
  return flags
end

local function read_options(opts)
  local o = check.options("UNet", opts, OPTIONS)
  local levels = type(o.block_out_channels) == "table" and o.block_out_channels or { o.block_out_channels }
  if o.dims ~= 1 and o.dims ~= 2 then check.fail("UNet", "dims is wrong: got %d, expected 1 or 2", o.dims) end
  if o.kernel_size % 2 == 0 then check.fail("UNet", "kernel_size is wrong: got %d, expected odd", o.kernel_size) end
  o.block_out_channels = levels
  o.down_attention, o.up_attention = {}, {}
  if o.down_block_types then o.down_attention = attention_levels(o.down_block_types, "Down", #levels) end
  if o.up_block_types then
    o.up_attention = attention_levels(o.up_block_types, "Up", #levels)
  else
    for i = 1, #levels do o.up_attention[i] = o.down_attention[#levels + 1 - i] end
  end
  o.time_dim, o.time_embed_dim = o.time_dim or levels[1], o.time_embed_dim or 4 * levels[1]
  return o
end

-- Make the way down; returns the channels of every skip.
local function make_down(self, o)
  local blocks, c = {}, o.block_out_channels[1]
  local skips = { c }
  for level, out in ipairs(o.block_out_channels) do
    local channels = {}
    for i = 1, o.layers_per_block do
      channels[i] = { c, out }
      c = out
      skips[#skips + 1] = c
    end
    blocks[level] = DownBlock(channels, o.down_attention[level], o)
    if level < #o.block_out_channels then
      blocks[level].downsamplers = { Downsample(c, o) }
      skips[#skips + 1] = c
    end
  end
  self.down_blocks = blocks
  return skips
end

local function make_middle(self, o)
  local c = o.block_out_channels[#o.block_out_channels]
  self.mid_block = MidBlock({ { c, c }, { c, c } }, false, o)
  if o.add_attention then self.mid_block.attentions = { attention_block(c, o) } end
  if o.cross_attention_dim then
    self.mid_block.cross_attention = AttentionBlock(c, {
      heads = o.num_attention_heads or math.max(1, c // o.attention_head_dim), norm_eps = o.norm_eps,
      context_channels = o.cross_attention_dim, norm_num_groups = math.min(o.norm_num_groups, c),
      zero_init = o.zero_init,
    })
  end
end

local function make_up(self, o, skips)
  local blocks, levels = {}, #o.block_out_channels
  local c = o.block_out_channels[levels]
  for i = 1, levels do
    local out, channels = o.block_out_channels[levels + 1 - i], {}
    for k = 1, o.layers_per_block + 1 do
      channels[k] = { c + table.remove(skips), out }
      c = out
    end
    blocks[i] = UpBlock(channels, o.up_attention[i], o)
    if i < levels then blocks[i].upsamplers = { Upsample(c, o) } end
  end
  self.up_blocks = blocks
end

--- A U-Net that predicts from a noisy input and its time.
---
---     local net = nn.UNet { in_channels = 3, out_channels = 3, block_out_channels = { 64, 128, 128 },
---       down_block_types = { "DownBlock2D", "AttnDownBlock2D", "DownBlock2D" } }
---     local eps = net(x, t)
---
--- As in diffusers: sample_size, in_channels, out_channels, block_out_channels, layers_per_block, down_block_types,
--- up_block_types (default: as on the way down), add_attention (in the middle), attention_head_dim, norm_num_groups,
--- norm_eps, act_fn, dropout, resnet_time_scale_shift, downsample_padding, time_embedding_type, freq_shift,
--- flip_sin_to_cos, num_class_embeds. Beyond it: dims (1 or 2), kernel_size, down (factor between levels),
--- down_kernel_size, time_dim and time_embed_dim (widths of the projected time and of its embedding), time_inputs (how
--- many times it is told), time_scale (factor on t), num_attention_heads, fuse_qkv, zero_init (residual branches and
--- output begin at 0), gradient_checkpointing (blocks are computed again in backward: about 60 % of the memory),
--- vector_channels (numbers of cond.vector, which enter as the time does), cross_attention_dim (channels of
--- cond.tokens, to which the middle attends).
---@param opts? table
function UNet:init(opts)
  local o = read_options(opts)
  local Conv, first, same = conv_of(o), o.block_out_channels[1], { padding = o.kernel_size // 2 }
  self.in_channels, self.out_channels, self.dims = o.in_channels, o.out_channels, o.dims
  self.conv_in = Conv(o.in_channels, first, o.kernel_size, same)
  embedding.add_times(self, o)
  if o.num_class_embeds then self.class_embedding = embedding.Embedding(o.num_class_embeds, o.time_embed_dim) end
  if o.vector_channels then
    self.vector_embedding = embedding.TimestepEmbedding(o.vector_channels, o.time_embed_dim)
  end
  local skips = make_down(self, o)
  make_middle(self, o)
  make_up(self, o, skips)
  local fused = o.act_fn == "silu" and "silu" or nil
  self.conv_norm_out = GroupNorm(math.min(o.norm_num_groups, first), first, { eps = o.norm_eps, activation = fused })
  if not fused then self.conv_act = activation.by_name("UNet", o.act_fn) end
  self.conv_out = Conv(first, o.out_channels, o.kernel_size, same)
  if o.zero_init then weights.zero(self.conv_out) end
  if o.gradient_checkpointing then self:enable_gradient_checkpointing() end
end

-- Was a part of cond given that this network has no layer for?
local function check_cond(cond, key, option, layer)
  if cond[key] and not layer then check.fail("UNet", "%s were given, but %s was not", key, option) end
end

-- SiLU of the embedded times, classes and vectors: what every res block reads.
local function embed(self, t, cond, n)
  local e = embedding.embed_times(self, t, n)
  check_cond(cond, "labels", "num_class_embeds", self.class_embedding)
  check_cond(cond, "vector", "vector_channels", self.vector_embedding)
  check_cond(cond, "tokens", "cross_attention_dim", self.mid_block.cross_attention)
  if cond.labels then e = e + self.class_embedding(cond.labels) end
  if cond.vector then e = e + self.vector_embedding(cond.vector) end
  return core.op.silu(e)
end

local function output(self, h)
  h = self.conv_norm_out(h)
  return self.conv_out(self.conv_act and self.conv_act(h) or h)
end

---@param x hd.Tensor  [n, c, t] or [n, c, h, w]
---@param t any        time: a number, [n], or a list of these where time_inputs > 1
---@param cond? { context: hd.Tensor?, labels: hd.Tensor?, vector: hd.Tensor?, tokens: hd.Tensor? }  context [n, c',
---                     ...] is joined to x along the channels (c + c' = in_channels); labels [n] are 1-based classes;
---                     vector [n, vector_channels]; tokens [n, s, cross_attention_dim]
---@return hd.Tensor   [n, out_channels, ...]
function UNet:forward(x, t, cond)
  cond = cond or {}
  if cond.context then x = core.op.cat({ x, cond.context }, 2) end
  local time = embed(self, t, cond, x:size(1))
  local h = self.conv_in(x)
  local skips = { h }
  for _, block in ipairs(self.down_blocks) do h = block(h, time, skips) end
  h = self.mid_block(h, time, cond.tokens)
  for _, block in ipairs(self.up_blocks) do h = block(h, time, skips) end
  if self.gradient_checkpointing then return core.checkpoint(output, self, h) end
  return output(self, h)
end

local function set_checkpointing(self, on)
  self.gradient_checkpointing, self.mid_block.gradient_checkpointing = on, on
  for _, blocks in ipairs { self.down_blocks, self.up_blocks } do
    for _, block in ipairs(blocks) do block.gradient_checkpointing = on end
  end
end

--- From now on backward computes each block again instead of keeping what is inside (see hd.checkpoint).
function UNet:enable_gradient_checkpointing() set_checkpointing(self, true) end

--- Keep everything again.
function UNet:disable_gradient_checkpointing() set_checkpointing(self, false) end

class.guard(UNet, { "enable_gradient_checkpointing", "disable_gradient_checkpointing" })

return { UNet = UNet }
