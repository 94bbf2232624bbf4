-- hd/nn/weights.lua: how parameters begin, as in PyTorch: drawn from the default generator in logical order.
-- Calls: hd.core. Called by: the layers.

local core = require "hd.core"
local Parameter = require "hd.nn.module".Parameter

local weights = {}

--- A parameter of uniform numbers in [-bound, bound]; convolution weights get the memory order that is fast.
---@param shape integer[]
---@param bound number
---@return hd.Tensor
function weights.uniform(shape, bound)
  local x = #shape > 2 and core.empty_weight(shape) or core.empty(shape)
  return Parameter(x:uniform_(-bound, bound))
end

--- A parameter of normal numbers of mean 0.
---@param shape integer[]
---@param std number
---@return hd.Tensor
function weights.normal(shape, std) return Parameter(core.empty(shape):normal_(0, std)) end

--- A parameter of one value.
---@param shape integer[]
---@param value number
---@return hd.Tensor
function weights.full(shape, value) return Parameter(core.full(shape, value)) end

--- Set the layer's weight and bias to 0, so that a residual branch begins as the identity; returns the layer.
---@generic T
---@param layer T
---@return T
function weights.zero(layer)
  local _ <close> = core.no_grad()
  layer.weight:copy_(0)
  if layer.bias then layer.bias:copy_(0) end
  return layer
end

return weights
