-- hd/optim/adam.lua: Adam and AdamW, one fused pass over memory per parameter.

local class = require "hd.class"
local core = require "hd.core"
local check = require "hd.check"
local Optimizer = require "hd.optim.optimizer"

local function spec(weight_decay)
  return {
    { "lr", "number", 1e-3 }, { "betas", "table", { 0.9, 0.999 } }, { "eps", "number", 1e-8 },
    { "weight_decay", "number", weight_decay },
  }
end

local function check_betas(where, betas)
  for i = 1, 2 do
    local beta = check.arg(where, "betas", betas[i], "number")
    if beta < 0 or beta >= 1 then check.fail(where, "betas are wrong: got %g, expected 0 <= beta < 1", beta) end
  end
end

local MOMENTS = { "exp_avg", "exp_avg_sq" }

-- The options of the fused step, one table per group, so that a step makes no garbage.
local function fused_options(self, group)
  local o = self.fused[group] or { decoupled = self.decoupled }
  self.fused[group] = o
  o.lr, o.beta1, o.beta2, o.eps = group.lr, group.betas[1], group.betas[2], group.eps
  o.weight_decay = group.weight_decay
  return o
end

local function adam_class(name, weight_decay, decoupled)
  local Adam = class(name, Optimizer)
  Adam.moments, Adam.decoupled = MOMENTS, decoupled
  local options = spec(weight_decay)

  ---@param params hd.Tensor[]|table[]  parameters, or groups { params = list, lr = ... }
  ---@param opts? table  lr (1e-3), betas ({ 0.9, 0.999 }), eps (1e-8), weight_decay (Adam 0, AdamW 0.01)
  function Adam:init(params, opts)
    self:setup(params, opts, options)
    self.fused = {}
    for _, group in ipairs(self.groups) do check_betas(name, group.betas) end
  end

  --- One step for every parameter that has a gradient.
  function Adam:step()
    for _, group in ipairs(self.groups) do fused_options(self, group) end
    self:each(function(group, p, g)
      local s = self:state_of(p, MOMENTS)
      s.step = s.step + 1
      core.adam(p, g, s.exp_avg, s.exp_avg_sq, s.step, self.fused[group])
    end)
  end
  class.guard(Adam, { "step" })
  return Adam
end

--- Adam: `optim.Adam(net:parameters(), {lr = 1e-3})`; weight decay is added to the gradient.
--- Source: Kingma and Ba 2015.
---@class hd.optim.Adam : hd.optim.Optimizer
local Adam = adam_class("Adam", 0, false)

--- Adam with decoupled weight decay: `optim.AdamW(net:parameters(), {lr = 1e-3})`.
--- Source: Loshchilov and Hutter 2019.
---@class hd.optim.AdamW : hd.optim.Optimizer
local AdamW = adam_class("AdamW", 0.01, true)

return { Adam = Adam, AdamW = AdamW }
