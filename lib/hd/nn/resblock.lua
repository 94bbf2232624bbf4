-- hd/nn/resblock.lua: the residual block of U-Nets, in one and two dimensions.
-- Names of weights are those of diffusers' ResnetBlock2D.

local class = require "hd.class"
local check = require "hd.check"
local core = require "hd.core"
local conv = require "hd.nn.conv"
local norm = require "hd.nn.norm"
local weights = require "hd.nn.weights"
local activation = require "hd.nn.activation"
local Linear = require "hd.nn.linear".Linear
local Module = require "hd.nn.module".Module

---@class hd.nn.ResBlock : hd.nn.Module
local ResBlock = class("ResBlock", Module)

local OPTIONS = {
  { "dims", "integer", 2 }, { "kernel_size", "integer", 3 }, { "time_embed_dim", "integer" },
  { "norm_num_groups", "integer", 32 }, { "norm_eps", "number", 1e-5 }, { "act_fn", activation.names, "silu" },
  { "dropout", "number", 0 }, { "time_scale_shift", "boolean", false }, { "zero_init", "boolean", false },
}

-- GroupNorm and activation: one pass for SiLU, two layers for the others.
local function normalise(o, channels)
  local fused = o.act_fn == "silu" and "silu" or nil
  return norm.GroupNorm(math.min(o.norm_num_groups, channels), channels, { eps = o.norm_eps, activation = fused })
end

--- Convolution twice, each after GroupNorm and SiLU, with the time added between them; plus the input.
--- With `time_scale_shift` the time scales and shifts the second norm instead (FiLM).
---@param in_channels integer
---@param out_channels integer
---@param opts? table  dims, kernel_size (odd), time_embed_dim, norm_num_groups, norm_eps, act_fn, dropout,
---                    time_scale_shift, zero_init (begin as the identity)
function ResBlock:init(in_channels, out_channels, opts)
  local o = check.options("ResBlock", opts, OPTIONS)
  check.arg("ResBlock", "in_channels", in_channels, "integer")
  check.arg("ResBlock", "out_channels", out_channels, "integer")
  local Conv = o.dims == 1 and conv.Conv1d or conv.Conv2d
  local same = { padding = o.kernel_size // 2 }
  self.norm1 = normalise(o, in_channels)
  self.conv1 = Conv(in_channels, out_channels, o.kernel_size, same)
  if o.time_embed_dim then
    self.time_emb_proj = Linear(o.time_embed_dim, o.time_scale_shift and 2 * out_channels or out_channels)
  end
  self.norm2 = o.time_scale_shift and norm.GroupNorm(math.min(o.norm_num_groups, out_channels), out_channels,
    { eps = o.norm_eps }) or normalise(o, out_channels)
  self.conv2 = Conv(out_channels, out_channels, o.kernel_size, same)
  if in_channels ~= out_channels then self.conv_shortcut = Conv(in_channels, out_channels, 1) end
  if o.act_fn ~= "silu" then self.activation = activation.by_name("ResBlock", o.act_fn) end
  if o.dropout > 0 then self.dropout = activation.Dropout(o.dropout) end
  if o.zero_init then weights.zero(self.conv2) end
  self.dims, self.time_scale_shift = o.dims, o.time_scale_shift
end

-- [n, c] -> [n, c, 1] or [n, c, 1, 1]
local function per_channel(e, dims)
  local n, c = table.unpack(e:shape())
  return dims == 1 and e:view(n, c, 1) or e:view(n, c, 1, 1)
end

-- conv(act(norm(x)), add), x with `skip` joined to it. SiLU is the norm's own: then all is one operation.
local function convolve(self, conv_layer, norm_layer, x, add, skip)
  if not self.activation then return conv_layer(x, add, skip, norm_layer) end
  return conv_layer(self.activation(norm_layer(x, skip)), add)
end

-- SiLU(norm(h) * (1 + scale) + shift)
local function modulated(self, h, e)
  local c = h:size(2)
  local scale, shift = e:narrow(2, 1, c), e:narrow(2, c + 1, c)
  h = self.norm2(h) * (scale + 1) + shift
  return self.activation and self.activation(h) or core.op.silu(h)
end

-- Norm, activation and dropout between the convolutions.
local function between(self, h, e)
  if self.time_scale_shift then
    h = modulated(self, h, e)
  else
    h = self.norm2(h)
    h = self.activation and self.activation(h) or h
  end
  return self.dropout and self.dropout(h) or h
end

-- What the second convolution's result is added to.
local function shortcut(self, x, skip)
  if self.conv_shortcut then return self.conv_shortcut(x, nil, skip) end
  return skip and core.op.cat({ x, skip }, 2) or x
end

--- Time and input are added by the convolutions themselves.
---@param x hd.Tensor       [n, in_channels, ...]
---@param time? hd.Tensor   [n, time_embed_dim], after its activation
---@param skip? hd.Tensor   the last of in_channels, where x has the others alone: as hd.cat({ x, skip }, 2), without it
---@return hd.Tensor        [n, out_channels, ...]
function ResBlock:forward(x, time, skip)
  local e = self.time_emb_proj and per_channel(self.time_emb_proj(time), self.dims)
  local h = convolve(self, self.conv1, self.norm1, x, not self.time_scale_shift and e or nil, skip)
  local rest = shortcut(self, x, skip)
  if self.time_scale_shift or self.dropout then
    h = self.conv2(between(self, h, e), rest)
  else
    h = convolve(self, self.conv2, self.norm2, h, rest)
  end
  if rest ~= x then rest:release() end -- nobody reads it again: it need not wait for the collector
  return h
end

return { ResBlock = ResBlock }
