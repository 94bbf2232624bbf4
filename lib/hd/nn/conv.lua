-- hd/nn/conv.lua: convolutions and their transposes in one and two dimensions; names and defaults are PyTorch's.

local class = require "hd.class"
local check = require "hd.check"
local core = require "hd.core"
local weights = require "hd.nn.weights"
local Module = require "hd.nn.module".Module

local OPTIONS = {
  { "stride", "size", 1 }, { "padding", "size", 0 }, { "dilation", "size", 1 }, { "groups", "integer", 1 },
  { "bias", "boolean", true },
}
local TRANSPOSE_OPTIONS = {
  { "stride", "size", 1 }, { "padding", "size", 0 }, { "output_padding", "size", 0 }, { "dilation", "size", 1 },
  { "groups", "integer", 1 }, { "bias", "boolean", true },
}

local function product(list)
  local p = 1
  for _, v in ipairs(list) do p = p * v end
  return p
end

-- Read the arguments of any of the four layers into self; returns whether there is a bias.
local function read_arguments(self, dims, in_channels, out_channels, kernel_size, opts, spec)
  local where = getmetatable(self).name
  self.in_channels = check.arg(where, "in_channels", in_channels, "integer")
  self.out_channels = check.arg(where, "out_channels", out_channels, "integer")
  self.kernel_size = check.extents(where, "kernel_size", kernel_size, dims)
  local o = check.options(where, opts, spec)
  if o.groups < 1 or self.in_channels % o.groups ~= 0 or self.out_channels % o.groups ~= 0 then
    check.fail(where, "groups must divide both channel counts: got %d for %d and %d", o.groups, self.in_channels,
      self.out_channels)
  end
  local bias = o.bias
  o.bias = nil
  self.options = o -- passed to the op as it is
  return bias
end

-- Weights and bias uniform in ±1/sqrt(fan_in), which is PyTorch's kaiming_uniform with a = sqrt(5).
local function make_weights(self, rows, columns, bias)
  local bound = 1 / math.sqrt(columns * product(self.kernel_size))
  self.weight = weights.uniform({ rows, columns, table.unpack(self.kernel_size) }, bound)
  if bias then self.bias = weights.uniform({ self.out_channels }, bound) end
end

local function extra(self)
  return ("%d, %d, kernel %s"):format(self.in_channels, self.out_channels, table.concat(self.kernel_size, "x"))
end

local function conv_class(name, dims)
  local Conv = class(name, Module)
  ---@param in_channels integer
  ---@param out_channels integer
  ---@param kernel_size integer|integer[]
  ---@param opts? table  stride (1), padding (0), dilation (1), groups (1), bias (true)
  function Conv:init(in_channels, out_channels, kernel_size, opts)
    local bias = read_arguments(self, dims, in_channels, out_channels, kernel_size, opts, OPTIONS)
    make_weights(self, self.out_channels, self.in_channels // self.options.groups, bias)
  end
  Conv.extra = extra
  return Conv
end

local function transpose_class(name, dims)
  local Conv = class(name, Module)
  ---@param in_channels integer
  ---@param out_channels integer
  ---@param kernel_size integer|integer[]
  ---@param opts? table  stride (1), padding (0), output_padding (0), dilation (1), groups (1), bias (true)
  function Conv:init(in_channels, out_channels, kernel_size, opts)
    local bias = read_arguments(self, dims, in_channels, out_channels, kernel_size, opts, TRANSPOSE_OPTIONS)
    make_weights(self, self.in_channels, self.out_channels // self.options.groups, bias)
  end
  Conv.extra = extra
  return Conv
end

-- The convolution of norm(x, more), by the operation that does both.
local function normed(self, op, norm, x, add, more)
  local o = self.options
  if o.groups ~= 1 then check.fail(getmetatable(self).name, "a norm before it needs groups 1: got %d", o.groups) end
  return op(x, norm.num_groups, norm.weight, norm.bias, more, self.weight, self.bias, add, {
    eps = norm.options.eps, activation = norm.options.activation, stride = o.stride, padding = o.padding,
    dilation = o.dilation,
  })
end

--- Convolution of signals [n, c, t]: `nn.Conv1d(16, 32, 9, {padding = 4})`.
---@class hd.nn.Conv1d : hd.nn.Module
---@field weight hd.Tensor  [out_channels, in_channels / groups, kernel]
---@field bias? hd.Tensor   [out_channels]
local Conv1d = conv_class("Conv1d", 1)

---@param x hd.Tensor      [n, in_channels, t]
---@param add? hd.Tensor   added to the result in the same pass: its shape, or 1 where it is repeated
---@param more? hd.Tensor  the last of in_channels, where x has the others alone: as hd.cat({ x, more }, 2), without it
---@param norm? hd.nn.GroupNorm  comes first, in the same operation: as self(norm(x, more), add), in less memory
---@return hd.Tensor       [n, out_channels, t']
function Conv1d:forward(x, add, more, norm)
  if norm then return normed(self, core.op.group_norm_conv1d, norm, x, add, more) end
  return core.op.conv1d(x, self.weight, self.bias, add, more, self.options)
end

--- Convolution of images [n, c, h, w]: `nn.Conv2d(64, 128, 3, {stride = 2, padding = 1})`.
---@class hd.nn.Conv2d : hd.nn.Module
---@field weight hd.Tensor  [out_channels, in_channels / groups, kernel, kernel]
---@field bias? hd.Tensor   [out_channels]
local Conv2d = conv_class("Conv2d", 2)

---@param x hd.Tensor      [n, in_channels, h, w]
---@param add? hd.Tensor   added to the result in the same pass: its shape, or 1 where it is repeated
---@param more? hd.Tensor  the last of in_channels, where x has the others alone: as hd.cat({ x, more }, 2), without it
---@param norm? hd.nn.GroupNorm  comes first, in the same operation: as self(norm(x, more), add), in less memory
---@return hd.Tensor       [n, out_channels, h', w']
function Conv2d:forward(x, add, more, norm)
  if norm then return normed(self, core.op.group_norm_conv2d, norm, x, add, more) end
  return core.op.conv2d(x, self.weight, self.bias, add, more, self.options)
end

--- Transposed convolution of signals [n, c, t].
---@class hd.nn.ConvTranspose1d : hd.nn.Module
---@field weight hd.Tensor  [in_channels, out_channels / groups, kernel]
---@field bias? hd.Tensor   [out_channels]
local ConvTranspose1d = transpose_class("ConvTranspose1d", 1)

---@param x hd.Tensor  [n, in_channels, t]
---@return hd.Tensor   [n, out_channels, t']
function ConvTranspose1d:forward(x) return core.op.conv_transpose1d(x, self.weight, self.bias, self.options) end

--- Transposed convolution of images [n, c, h, w].
---@class hd.nn.ConvTranspose2d : hd.nn.Module
---@field weight hd.Tensor  [in_channels, out_channels / groups, kernel, kernel]
---@field bias? hd.Tensor   [out_channels]
local ConvTranspose2d = transpose_class("ConvTranspose2d", 2)

---@param x hd.Tensor  [n, in_channels, h, w]
---@return hd.Tensor   [n, out_channels, h', w']
function ConvTranspose2d:forward(x) return core.op.conv_transpose2d(x, self.weight, self.bias, self.options) end

return { Conv1d = Conv1d, Conv2d = Conv2d, ConvTranspose1d = ConvTranspose1d, ConvTranspose2d = ConvTranspose2d }
