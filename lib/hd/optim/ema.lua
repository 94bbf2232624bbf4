-- hd/optim/ema.lua: an exponential moving average of a model's parameters, which samples better than the model itself.

local class = require "hd.class"
local check = require "hd.check"
local core = require "hd.core"
local is_module = require "hd.nn.module".is_module

---@class hd.optim.EMA
---@field model hd.nn.Module  the averaged copy: call it, sample with it, save it
local EMA = class "EMA"

--- After the optimizer's step: a = decay a + (1 - decay) p.
--- With warm-up the decay of update n is at most (1 + n) / (10 + n): the first, random weights are soon forgotten.
---@param model hd.nn.Module
---@param opts? { decay: number, warmup: boolean }  0.999, true
function EMA:init(model, opts)
  local o = check.options("EMA", opts, { { "decay", "number", 0.999 }, { "warmup", "boolean", true } })
  if o.decay < 0 or o.decay > 1 then check.fail("EMA", "decay is wrong: got %g, expected 0 to 1", o.decay) end
  if not is_module(model) then
    check.fail("EMA", "model is wrong: got %s, expected a module (hd.nn)", check.show(model))
  end
  self.decay, self.warmup, self.updates = o.decay, o.warmup, 0
  self.source, self.model = model, model:clone():requires_grad_(false):eval()
  self.averaged, self.live = self.model:parameters(), model:parameters()
end

local function copy_buffers(from, to)
  local target = to:buffers()
  for i, b in ipairs(from:buffers()) do target[i]:copy_(b) end
end

--- Move the average towards the model. Not where hd.run has refused the step (see on_nan of hd.run.new).
function EMA:update()
  if self.guard and self.guard:refuses() then return end
  local _ <close> = core.no_grad()
  self.updates = self.updates + 1
  local decay = self.decay
  if self.warmup then decay = math.min(decay, (1 + self.updates) / (10 + self.updates)) end
  for i, a in ipairs(self.averaged) do core.lerp_(a, self.live[i], 1 - decay) end
  copy_buffers(self.source, self.model)
end

--- The averaged model's state and the number of updates.
---@return table<string, hd.Tensor>
function EMA:state_dict()
  local state = self.model:state_dict()
  state["ema.updates"] = core.tensor(self.updates, { dtype = "f64" })
  return state
end

--- Put back what state_dict gave.
---@param state table<string, hd.Tensor>
function EMA:load_state_dict(state)
  local weights = {}
  check.arg("EMA:load_state_dict", "state", state, "table")
  for name, x in next, state do weights[name] = x end -- order free: a copy
  local updates = weights["ema.updates"]
  if not check.is_tensor(updates) then
    check.fail("EMA:load_state_dict", "'ema.updates' is missing: expected the state of an EMA")
  end
  weights["ema.updates"] = nil
  self.model:load_state_dict(weights)
  self.updates = math.tointeger(updates:item())
end

class.guard(EMA, { "update", "state_dict", "load_state_dict" })

return { EMA = EMA }
