-- hd/optim/sgd.lua: stochastic gradient descent with momentum.

local class = require "hd.class"
local core = require "hd.core"
local Optimizer = require "hd.optim.optimizer"

local OPTIONS = {
  { "lr", "number", 1e-3 }, { "momentum", "number", 0 }, { "weight_decay", "number", 0 },
  { "nesterov", "boolean", false },
}

--- Stochastic gradient descent: `optim.SGD(net:parameters(), {lr = 0.1, momentum = 0.9})`.
---@class hd.optim.SGD : hd.optim.Optimizer
local SGD = class("SGD", Optimizer)
SGD.moments = { "momentum_buffer" }

---@param params hd.Tensor[]|table[]  parameters, or groups { params = list, lr = ... }
---@param opts? table  lr (1e-3), momentum (0), weight_decay (0), nesterov (false)
function SGD:init(params, opts) self:setup(params, opts, OPTIONS) end

--- One step for every parameter that has a gradient.
function SGD:step()
  self:each(function(group, p, g)
    local s = self:state_of(p, group.momentum ~= 0 and self.moments or {})
    s.step = s.step + 1
    core.sgd(p, g, s.momentum_buffer, {
      lr = group.lr, momentum = group.momentum, weight_decay = group.weight_decay, nesterov = group.nesterov,
    })
  end)
end

class.guard(SGD, { "step" })

return { SGD = SGD }
