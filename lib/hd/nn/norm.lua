-- hd/nn/norm.lua: normalisation layers; names and defaults are PyTorch's.

local class = require "hd.class"
local check = require "hd.check"
local core = require "hd.core"
local weights = require "hd.nn.weights"
local Module = require "hd.nn.module".Module

---@class hd.nn.GroupNorm : hd.nn.Module
---@field weight hd.Tensor  [num_channels], begins at 1
---@field bias hd.Tensor    [num_channels], begins at 0
local GroupNorm = class("GroupNorm", Module)

--- Zero mean and unit variance over each group of consecutive channels and all positions, then scale and shift.
--- `activation = "silu"` applies SiLU in the same pass over memory. Source: Wu and He 2018.
---@param num_groups integer    divides num_channels
---@param num_channels integer
---@param opts? { eps: number, affine: boolean, activation: string }
function GroupNorm:init(num_groups, num_channels, opts)
  self.num_groups = check.arg("GroupNorm", "num_groups", num_groups, "integer")
  self.num_channels = check.arg("GroupNorm", "num_channels", num_channels, "integer")
  local o = check.options("GroupNorm", opts,
    { { "eps", "number", 1e-5 }, { "affine", "boolean", true }, { "activation", { "silu" } } })
  if num_groups < 1 or num_channels % num_groups ~= 0 then
    check.fail("GroupNorm", "num_groups must divide num_channels: got %d and %d", num_groups, num_channels)
  end
  if o.affine then
    self.weight = weights.full({ self.num_channels }, 1)
    self.bias = weights.full({ self.num_channels }, 0)
  end
  self.options = { eps = o.eps, activation = o.activation }
end

---@param x hd.Tensor      [n, num_channels, ...]
---@param more? hd.Tensor  the last of the channels, where x has the others alone: as hd.cat({ x, more }, 2), without it
---@return hd.Tensor       [n, num_channels, ...]
function GroupNorm:forward(x, more)
  return core.op.group_norm(x, self.num_groups, self.weight, self.bias, more, self.options)
end

function GroupNorm:extra()
  local activation = self.options.activation
  return ("%d, %d%s"):format(self.num_groups, self.num_channels, activation and ", " .. activation or "")
end

---@class hd.nn.LayerNorm : hd.nn.Module
---@field weight hd.Tensor  the normalised shape, begins at 1
---@field bias? hd.Tensor   the normalised shape, begins at 0
local LayerNorm = class("LayerNorm", Module)

-- One integer or a list as the list of the last dimensions.
local function trailing_shape(where, shape)
  shape = check.arg(where, "normalized_shape", shape, "size")
  return type(shape) == "table" and shape or { shape }
end

--- Zero mean and unit variance over the last dimensions, then scale and shift.
---@param normalized_shape integer|integer[]  extents of the last dimensions
---@param opts? { eps: number, elementwise_affine: boolean, bias: boolean }
function LayerNorm:init(normalized_shape, opts)
  self.normalized_shape = trailing_shape("LayerNorm", normalized_shape)
  local o = check.options("LayerNorm", opts,
    { { "eps", "number", 1e-5 }, { "elementwise_affine", "boolean", true }, { "bias", "boolean", true } })
  if o.elementwise_affine then
    self.weight = weights.full(self.normalized_shape, 1)
    if o.bias then self.bias = weights.full(self.normalized_shape, 0) end
  end
  self.options = { eps = o.eps }
end

---@param x hd.Tensor  [..., normalized_shape]
---@return hd.Tensor   the same shape
function LayerNorm:forward(x)
  return core.op.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.options)
end

function LayerNorm:extra() return table.concat(self.normalized_shape, "x") end

---@class hd.nn.RMSNorm : hd.nn.Module
---@field weight hd.Tensor  the normalised shape, begins at 1
local RMSNorm = class("RMSNorm", Module)

--- Divide by the root mean square over the last dimensions, then scale. Source: Zhang and Sennrich 2019.
---@param normalized_shape integer|integer[]
---@param opts? { eps: number, elementwise_affine: boolean }
function RMSNorm:init(normalized_shape, opts)
  self.normalized_shape = trailing_shape("RMSNorm", normalized_shape)
  local o = check.options("RMSNorm", opts, { { "eps", "number", 1e-6 }, { "elementwise_affine", "boolean", true } })
  if o.elementwise_affine then self.weight = weights.full(self.normalized_shape, 1) end
  self.options = { eps = o.eps }
end

---@param x hd.Tensor  [..., normalized_shape]
---@return hd.Tensor   the same shape
function RMSNorm:forward(x) return core.op.rms_norm(x, self.normalized_shape, self.weight, self.options) end

function RMSNorm:extra() return table.concat(self.normalized_shape, "x") end

return { GroupNorm = GroupNorm, LayerNorm = LayerNorm, RMSNorm = RMSNorm }
