-- hd/nn/linear.lua: y = x W' + b.

local class = require "hd.class"
local check = require "hd.check"
local core = require "hd.core"
local weights = require "hd.nn.weights"
local Module = require "hd.nn.module".Module

---@class hd.nn.Linear : hd.nn.Module
---@field weight hd.Tensor  [out_features, in_features]
---@field bias? hd.Tensor   [out_features]
local Linear = class("Linear", Module)

--- A linear layer on the last dimension. Weights begin uniform in ±1/sqrt(in_features), as in PyTorch.
---@param in_features integer
---@param out_features integer
---@param opts? { bias: boolean }  default true
function Linear:init(in_features, out_features, opts)
  self.in_features = check.arg("Linear", "in_features", in_features, "integer")
  self.out_features = check.arg("Linear", "out_features", out_features, "integer")
  local o = check.options("Linear", opts, { { "bias", "boolean", true } })
  local bound = 1 / math.sqrt(self.in_features)
  self.weight = weights.uniform({ self.out_features, self.in_features }, bound)
  if o.bias then self.bias = weights.uniform({ self.out_features }, bound) end
end

---@param x hd.Tensor   [..., in_features]
---@return hd.Tensor    [..., out_features]
function Linear:forward(x) return core.op.linear(x, self.weight, self.bias) end

function Linear:extra() return ("%d, %d"):format(self.in_features, self.out_features) end

return { Linear = Linear }
