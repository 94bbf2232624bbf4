-- hd/optim/optimizer.lua: what all optimizers share: groups of parameters, state, saving and loading.
-- A state is a flat table name -> tensor, so that it goes into a file as it is. Parameters are numbered from 0 there,
-- as PyTorch does; "state.3.exp_avg" belongs to the fourth parameter.

local class = require "hd.class"
local check = require "hd.check"
local core = require "hd.core"

---@class hd.optim.Optimizer
---@field groups table[]  { params = tensors, lr = number, ... }: change lr here, or let hd.optim.lr do it
local Optimizer = class "Optimizer"

local function check_params(where, params)
  if #check.list(where, "params", params, "tensor") == 0 then
    check.fail(where, "there are no parameters: expected at least one")
  end
  return params
end

-- Settings of one group: the shared ones, overridden by its own.
local function make_group(where, group, opts, spec)
  local own = {}
  for _, entry in ipairs(spec) do
    local name = entry[1]
    own[name] = group[name]
    if own[name] == nil and opts then own[name] = opts[name] end
  end
  local made = check.options(where, own, spec)
  made.params = check_params(where, group.params)
  return made
end

--- Read parameters and options; called by each optimizer's init.
---@param params table  a list of tensors, or a list of groups { params = list, lr = ... }
---@param opts? table
---@param spec table    as check.options takes it
function Optimizer:setup(params, opts, spec)
  local where = getmetatable(self).name
  check.options(where, opts, spec)
  local groups = check.is_tensor(params) and { { params = { params } } } or params
  check.arg(where, "params", groups, "table")
  if type(groups[1]) ~= "table" then groups = { { params = groups } } end
  self.groups, self.state, self.numbered = {}, {}, {}
  for i, group in ipairs(check.list(where, "params", groups, "table")) do
    self.groups[i] = make_group(where, group, opts, spec)
    for _, p in ipairs(group.params) do self.numbered[#self.numbered + 1] = p end
  end
end

-- Zeros like a parameter, in its memory order, that no scope releases.
local function moment(p) return core.keep(core.zeros_like(p), true) end

--- The state of one parameter, made at its first step: its step count, and a tensor of zeros for each name.
---@param p hd.Tensor
---@param names string[]
---@return table  { step = integer, [name] = tensor }
function Optimizer:state_of(p, names)
  local s = self.state[p]
  if not s then
    s = { step = 0 }
    for _, name in ipairs(names) do s[name] = moment(p) end
    self.state[p] = s
  end
  return s
end

--- Call `fn(group, parameter, gradient)` for every parameter that has a gradient, without recording. In a step of
--- hd.run, where the optimizer is part of the run's state, only if loss and gradients are finite; elsewhere, as in
--- PyTorch, they are taken as they are.
---@param fn fun(group: table, p: hd.Tensor, g: hd.Tensor)
function Optimizer:each(fn)
  if self.guard and not self.guard:allows(self) then return end
  local _ <close> = core.no_grad()
  for _, group in ipairs(self.groups) do
    for _, p in ipairs(group.params) do
      local g = p:grad()
      if g then fn(group, p, g) end
    end
  end
end

--- Forget the gradients of all parameters.
function Optimizer:zero_grad()
  for _, p in ipairs(self.numbered) do p:set_grad(nil) end
end

local function scalar(value) return core.tensor(value, { dtype = "f64" }) end

-- A group's rate and other settings that are numbers: a script may change them while it trains.
local function put_settings(out, prefix, group)
  for name, value in next, group do -- order free: separate keys
    if type(value) == "number" then
      out[prefix .. name] = scalar(value)
    elseif name ~= "params" and type(value) == "table" then
      out[prefix .. name] = core.tensor(value, { dtype = "f64" })
    end
  end
end

local function load_settings(group, prefix, state)
  for name, value in next, group do -- order free: separate keys
    local x = name ~= "params" and state[prefix .. name]
    if x then group[name] = type(value) == "number" and x:item() or x:totable() end
  end
end

--- Everything that the next step depends on, but the parameters: moments, step counts, rates and other settings.
---@return table<string, hd.Tensor>
function Optimizer:state_dict()
  local out = {}
  for i, group in ipairs(self.groups) do put_settings(out, ("param_groups.%d."):format(i - 1), group) end
  for i, p in ipairs(self.numbered) do
    local s, prefix = self.state[p], ("state.%d."):format(i - 1)
    if s then
      out[prefix .. "step"] = scalar(s.step)
      for _, name in ipairs(self.moments) do
        if s[name] then out[prefix .. name] = s[name]:detach() end
      end
    end
  end
  return out
end

local function load_moments(self, p, prefix, state)
  local where = getmetatable(self).name .. ":load_state_dict"
  local s = self:state_of(p, self.moments)
  s.step = math.tointeger(state[prefix .. "step"]:item())
  for _, name in ipairs(self.moments) do
    local x = state[prefix .. name]
    if x then
      if x:numel() ~= p:numel() then
        check.fail(where, "%s%s has %d values, expected %d", prefix, name, x:numel(), p:numel())
      end
      s[name]:copy_(x)
    end
  end
end

--- Put back what state_dict gave. Parameters must come in the same order as then.
---@param state table<string, hd.Tensor>
function Optimizer:load_state_dict(state)
  local where = getmetatable(self).name .. ":load_state_dict"
  check.arg(where, "state", state, "table")
  local _ <close> = core.no_grad()
  if state[("state.%d.step"):format(#self.numbered)] then
    check.fail(where, "the state is of another model: it has more parameters, expected %d", #self.numbered)
  end
  for i, group in ipairs(self.groups) do
    local prefix = ("param_groups.%d."):format(i - 1)
    if not check.is_tensor(state[prefix .. "lr"]) then
      check.fail(where, "the state is of another optimizer: '%slr' is missing, expected a tensor", prefix)
    end
    load_settings(group, prefix, state)
  end
  for i, p in ipairs(self.numbered) do
    local prefix = ("state.%d."):format(i - 1)
    if state[prefix .. "step"] then load_moments(self, p, prefix, state) else self.state[p] = nil end
  end
end

class.guard(Optimizer, { "zero_grad", "state_dict", "load_state_dict" })

return Optimizer
