-- hd/optim/lr.lua: rates that change while training. A schedule is a factor on each group's own rate as a function of
-- the step; `sched:step()` after `opt:step()`.

local class = require "hd.class"
local check = require "hd.check"
local core = require "hd.core"
local Optimizer = require "hd.optim.optimizer"

local lr = {}

---@class hd.optim.Rate
local Rate = class "Rate"

-- The rate of the steps to come: factor(n) where n steps are done.
local function set_rates(self)
  local factor = check.arg("optim.lr", "the factor", self.factor(self.done), "number")
  for i, group in ipairs(self.optimizer.groups) do group.lr = self.base[i] * factor end
end

function Rate:init(optimizer, factor)
  if not class.is(optimizer, Optimizer) then
    check.fail("optim.lr", "optimizer is wrong: got %s, expected an optimizer (hd.optim)", check.show(optimizer))
  end
  self.optimizer, self.factor, self.done, self.base = optimizer, factor, 0, {}
  for i, group in ipairs(optimizer.groups) do self.base[i] = group.lr end
  set_rates(self)
end

--- Go to the next step's rate.
function Rate:step()
  self.done = self.done + 1
  set_rates(self)
end

--- The rate of the first group.
---@return number
function Rate:rate() return self.optimizer.groups[1].lr end

---@return table<string, hd.Tensor>
function Rate:state_dict() return { done = core.tensor(self.done, { dtype = "f64" }) } end

---@param state table<string, hd.Tensor>
function Rate:load_state_dict(state)
  check.arg("optim.lr", "state", state, "table")
  check.arg("optim.lr", "state.done", state.done, "tensor")
  self.done = math.tointeger(state.done:item())
  set_rates(self)
end

class.guard(Rate, { "step", "rate", "state_dict", "load_state_dict" })

-- 1/warmup, 2/warmup, ... 1 over the first steps.
local function warm(n, warmup) return n < warmup and (n + 1) / warmup or 1 end

--- Any function of the number of steps done, counted from 0.
---@param optimizer hd.optim.Optimizer
---@param factor fun(n: integer): number
---@return hd.optim.Rate
function lr.lambda(optimizer, factor)
  return Rate(optimizer, check.arg("optim.lr.lambda", "factor", factor, "callable"))
end

--- A constant rate after a linear warm-up.
---@param optimizer hd.optim.Optimizer
---@param opts? { warmup: integer }  steps, default 0
---@return hd.optim.Rate
function lr.constant(optimizer, opts)
  local o = check.options("optim.lr.constant", opts, { { "warmup", "integer", 0 } })
  return Rate(optimizer, function(n) return warm(n, o.warmup) end)
end

local function annealed(where, optimizer, opts, shape)
  local o = check.options(where, opts,
    { { "steps", "integer", required = true }, { "warmup", "integer", 0 }, { "final", "number", 0 } })
  return Rate(optimizer, function(n)
    if n < o.warmup then return warm(n, o.warmup) end
    local progress = math.min(1, (n - o.warmup) / math.max(1, o.steps - o.warmup))
    return o.final + (1 - o.final) * shape(progress)
  end)
end

--- Linear warm-up, then half a cosine from the full rate to `final` times it. Source: Loshchilov and Hutter 2017.
---@param optimizer hd.optim.Optimizer
---@param opts { steps: integer, warmup: integer?, final: number? }  steps includes the warm-up
---@return hd.optim.Rate
function lr.cosine(optimizer, opts)
  return annealed("optim.lr.cosine", optimizer, opts, function(u) return 0.5 * (1 + math.cos(math.pi * u)) end)
end

--- Linear warm-up, then a straight line to `final` times the full rate.
---@param optimizer hd.optim.Optimizer
---@param opts { steps: integer, warmup: integer?, final: number? }
---@return hd.optim.Rate
function lr.linear(optimizer, opts)
  return annealed("optim.lr.linear", optimizer, opts, function(u) return 1 - u end)
end

--- Linear warm-up, constant up to `reference` steps, then falling as 1 / sqrt(step). Source: Karras et al. 2024.
---@param optimizer hd.optim.Optimizer
---@param opts { reference: integer, warmup: integer? }
---@return hd.optim.Rate
function lr.inverse_sqrt(optimizer, opts)
  local o = check.options("optim.lr.inverse_sqrt", opts,
    { { "reference", "integer", required = true }, { "warmup", "integer", 0 } })
  return Rate(optimizer, function(n) return warm(n, o.warmup) / math.sqrt(math.max(1, n / o.reference)) end)
end

return lr
