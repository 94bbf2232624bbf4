-- hd/nn/activation.lua: activations as layers, and by the names that models take as an option.

local class = require "hd.class"
local check = require "hd.check"
local core = require "hd.core"
local Module = require "hd.nn.module".Module

local M = {}

-- A layer without parameters that applies one op.
local function activation_class(name, op_name)
  local Activation = class(name, Module)
  function Activation.forward(_, x) return core.op[op_name](x) end
  return Activation
end

--- max(x, 0) as a layer.
---@class hd.nn.ReLU : hd.nn.Module
M.ReLU = activation_class("ReLU", "relu")

--- x sigmoid(x) as a layer.
---@class hd.nn.SiLU : hd.nn.Module
M.SiLU = activation_class("SiLU", "silu")

--- x Phi(x), exact by erf, as a layer.
---@class hd.nn.GELU : hd.nn.Module
M.GELU = activation_class("GELU", "gelu")

--- 1 / (1 + e^-x) as a layer.
---@class hd.nn.Sigmoid : hd.nn.Module
M.Sigmoid = activation_class("Sigmoid", "sigmoid")

--- The hyperbolic tangent as a layer.
---@class hd.nn.Tanh : hd.nn.Module
M.Tanh = activation_class("Tanh", "tanh")

local option_names = { "relu", "silu", "gelu", "sigmoid", "tanh" }
local by_option = { relu = M.ReLU, silu = M.SiLU, gelu = M.GELU, sigmoid = M.Sigmoid, tanh = M.Tanh }

--- Leave the input as it is; takes the place of a layer.
---@class hd.nn.Identity : hd.nn.Module
local Identity = class("Identity", Module)

function Identity.forward(_, x) return x end

---@class hd.nn.Dropout : hd.nn.Module
local Dropout = class("Dropout", Module)

--- While training, set each value to 0 with probability p and scale the others by 1 / (1 - p).
---@param p? number  default 0.5
function Dropout:init(p)
  self.p = check.arg("Dropout", "p", p or 0.5, "number")
end

---@param x hd.Tensor
---@return hd.Tensor
function Dropout:forward(x)
  return require "hd.nn.functional".dropout(x, { p = self.p, training = self.training })
end

function Dropout:extra() return ("%g"):format(self.p) end

--- A layer by the name of its activation: "relu", "silu", "gelu", "sigmoid" or "tanh".
---@param where string  for the message
---@param name string
---@return hd.nn.Module
function M.by_name(where, name)
  return by_option[check.one_of(where, "activation", name, option_names)]()
end

M.Identity, M.Dropout, M.names = Identity, Dropout, option_names

return M
