-- hd/nn/module.lua: the base of every layer and model: parameters, buffers, state, mode, summary.
-- Fields are found by what is assigned: a Parameter, a layer, a list of layers. Their order is that of assignment, so
-- parameters() has the same order in each process. Names of weights are PyTorch's: lists count from 0 there.
-- Calls: hd.core. Called by: every layer, hd.optim, hd.hierarchy; bind/ calls `describe` for the path of a layer.

local class = require "hd.class"
local check = require "hd.check"
local core = require "hd.core"

--- The base of layers and models; also a plain container: `local models = nn.Module(); models.coarse = nn.UNet {}`.
---
---     local Net = nn.Module:extend "Net"
---     function Net:init() self.conv = nn.Conv2d(3, 8, 3) end
---     function Net:forward(x) return F.relu(self.conv(x)) end
---
---@class hd.nn.Module
---@field training boolean  true until eval()
local Module = class "Module"
Module.training = true

local parameters = setmetatable({}, { __mode = "k" }) -- the tensors that Parameter made

--- Mark a tensor as a parameter: it collects a gradient, and a module that it is assigned to lists it.
---@param x hd.Tensor
---@return hd.Tensor x  the same tensor
local function Parameter(x)
  check.arg("Parameter", "value", x, "tensor")
  parameters[x] = true
  core.keep(x)
  return x:requires_grad_()
end

local function is_module(value) return class.is(value, Module) end

-- A list of layers (functions among them) without a class of its own.
local function is_layer_list(value)
  return type(value) == "table" and getmetatable(value) == nil and is_module(value[1])
end

-- Registration ----------------------------------------------------------------------------------------------------

local function names_of(self)
  local names = rawget(self, "_names")
  if not names then
    names = {}
    rawset(self, "_names", names)
  end
  return names
end

local function add_name(self, key)
  local names = names_of(self)
  for _, name in ipairs(names) do
    if name == key then return end
  end
  if getmetatable(self)[key] ~= nil then
    check.fail(getmetatable(self).name, "the field '%s' is a method already: give the layer another name", key)
  end
  names[#names + 1] = key
end

-- Runs for fields that are not set yet; later assignments to the same field find the name listed.
function Module:__newindex(key, value)
  if type(key) == "string" then
    if is_layer_list(value) then value = require "hd.nn.sequential".ModuleList(value) end
    if is_module(value) or parameters[value] then add_name(self, key) end
  end
  rawset(self, key, value)
end

--- Register a tensor that belongs to the state but is not trained.
---@param name string
---@param x hd.Tensor
---@param opts? { persistent: boolean }  persistent = false keeps it out of state_dict
---@return hd.Tensor x
function Module:register_buffer(name, x, opts)
  local o = check.options("register_buffer", opts, { { "persistent", "boolean", true } })
  check.arg("register_buffer", "name", name, "string")
  check.arg("register_buffer", "x", x, "tensor")
  add_name(self, name)
  local buffers = rawget(self, "_buffers") or {}
  rawset(self, "_buffers", buffers)
  buffers[name] = o.persistent and "saved" or "unsaved"
  rawset(self, name, core.keep(x))
  return x
end

-- Calling ---------------------------------------------------------------------------------------------------------

local observe -- set while summary() runs: called with the module and its results

local function pass(...) return ... end

-- Not a tail call: while forward runs, this frame and its `self` are on the stack, where bind/ reads the path of the
-- layer from for its messages. Nothing is counted or stored while all goes well.
local function call(self, ...)
  if observe then return observe(self, self:forward(...)) end
  return pass(self:forward(...))
end

Module.__call = call

--- What the layer computes; each layer has its own.
function Module:forward()
  return check.fail(getmetatable(self).name, "this class has no forward method")
end

--- A class derived from this one: `local Net = nn.Module:extend "Net"`.
---@param name string
---@return table class
function Module:extend(name) return class(name, self) end

-- Walking ---------------------------------------------------------------------------------------------------------

-- Iterate over direct child modules: key in PyTorch's form ("conv1", "0"), child, path step in Lua's (".conv1", "[1]").
local function children(self)
  local names, i, k = names_of(self), 0, 0
  return function()
    while i < #names do
      i = i + 1
      local child = rawget(self, names[i])
      if is_module(child) then return names[i], child, "." .. names[i] end
    end
    while k < #self do
      k = k + 1
      local child = rawget(self, k)
      if is_module(child) then return ("%d"):format(k - 1), child, ("[%d]"):format(k) end
    end
  end
end

local function visit(self, prefix, seen, list)
  if seen[self] then return end
  seen[self] = true
  list[#list + 1] = { prefix, self }
  for key, child in children(self) do
    visit(child, prefix == "" and key or prefix .. "." .. key, seen, list)
  end
end

-- All modules below and including self, each once: { {name, module}, ... }, parents first.
local function all_modules(self)
  local list = {}
  visit(self, "", {}, list)
  return list
end

--- Iterate over all modules, this one first (its name is ""): `for name, m in net:named_modules() do`.
---@return fun(): string, hd.nn.Module
function Module:named_modules()
  local list, i = all_modules(self), 0
  return function()
    i = i + 1
    if list[i] then return list[i][1], list[i][2] end
  end
end

-- Every registered tensor with its full name: { {name, tensor, "parameter"|"saved"|"unsaved", owner, field}, ... }.
local function all_tensors(self)
  local list = {}
  for name, m in self:named_modules() do
    for _, field in ipairs(names_of(m)) do
      local x = rawget(m, field)
      local kind = parameters[x] and "parameter" or (rawget(m, "_buffers") or {})[field]
      if kind and x ~= nil and not is_module(x) then
        list[#list + 1] = { name == "" and field or name .. "." .. field, x, kind, m, field }
      end
    end
  end
  return list
end

--- Iterate over parameters in the order of declaration: `for name, p in net:named_parameters() do`.
--- A tensor that two layers share comes once.
---@return fun(): string, hd.Tensor
function Module:named_parameters()
  local list, i, seen = all_tensors(self), 0, {}
  return function()
    while i < #list do
      i = i + 1
      local name, x, kind = table.unpack(list[i], 1, 3)
      if kind == "parameter" and not seen[x] then
        seen[x] = true
        return name, x
      end
    end
  end
end

--- All parameters in the order of declaration, as optimizers take them.
---@return hd.Tensor[]
function Module:parameters()
  local list = {}
  for _, p in self:named_parameters() do list[#list + 1] = p end
  return list
end

--- Iterate over buffers: `for name, b in net:named_buffers() do`.
---@return fun(): string, hd.Tensor
function Module:named_buffers()
  local list, i = all_tensors(self), 0
  return function()
    while i < #list do
      i = i + 1
      if list[i][3] ~= "parameter" then return list[i][1], list[i][2] end
    end
  end
end

--- All buffers.
---@return hd.Tensor[]
function Module:buffers()
  local list = {}
  for _, b in self:named_buffers() do list[#list + 1] = b end
  return list
end

--- Number of trainable values and of tensors that hold them.
---@return integer values, integer tensors
function Module:num_parameters()
  local values, tensors = 0, 0
  for _, p in self:named_parameters() do
    values, tensors = values + p:numel(), tensors + 1
  end
  return values, tensors
end

-- Mode and gradients ----------------------------------------------------------------------------------------------

--- Call `fn(module)` for every module, this one first; returns self.
---@param fn fun(m: hd.nn.Module)
---@return hd.nn.Module self
function Module:apply(fn)
  check.arg("apply", "fn", fn, "callable")
  for _, m in self:named_modules() do fn(m) end
  return self
end

--- Set training mode (dropout works) everywhere; returns self.
---@param mode? boolean  default true
---@return hd.nn.Module self
function Module:train(mode)
  if mode == nil then mode = true end
  return self:apply(function(m) rawset(m, "training", mode) end)
end

--- Set evaluation mode everywhere; returns self.
---@return hd.nn.Module self
function Module:eval() return self:train(false) end

--- Let all parameters collect gradients, or not; returns self.
---@param flag? boolean  default true
---@return hd.nn.Module self
function Module:requires_grad_(flag)
  for _, p in self:named_parameters() do p:requires_grad_(flag ~= false) end
  return self
end

--- Drop the gradients of all parameters; returns self.
---@return hd.nn.Module self
function Module:zero_grad()
  for _, p in self:named_parameters() do p:set_grad(nil) end
  return self
end

-- Put the result of change(tensor, kind) in the place of every registered tensor, shared ones once.
local function replace_tensors(self, change)
  local memo = {}
  for _, entry in ipairs(all_tensors(self)) do
    local _, x, kind, owner, field = table.unpack(entry)
    memo[x] = memo[x] or change(x, kind)
    rawset(owner, field, memo[x])
  end
  return self
end

local function kept(x, kind)
  if kind == "parameter" then return Parameter(x) end
  return core.keep(x)
end

--- Change the element type of all floating-point parameters and buffers ("f32", "f64"); returns self.
--- Optimizers must be made after it: the parameters are new tensors.
---@param dtype string
---@return hd.nn.Module self
function Module:to(dtype)
  check.arg("to", "dtype", dtype, "string")
  local _ <close> = core.no_grad()
  return replace_tensors(self, function(x, kind)
    if x:dtype() == dtype or not x:dtype():find "^f" then return x end
    return kept(x:to(dtype):detach(), kind)
  end)
end

-- Copy modules and plain tables; share everything else but the tensors in memo.
local function copy_tree(value, memo)
  if memo[value] then return memo[value] end
  local mt = getmetatable(value)
  if type(value) ~= "table" or (mt ~= nil and not is_module(value)) then return value end
  local out = {}
  memo[value] = out
  for key, v in next, value do out[key] = copy_tree(v, memo) end -- order free: a copy
  return setmetatable(out, mt)
end

--- A copy of the module with parameters and buffers of its own.
---@return hd.nn.Module
function Module:clone()
  local _ <close> = core.no_grad()
  local memo = {}
  for _, entry in ipairs(all_tensors(self)) do
    local x, kind = entry[2], entry[3]
    memo[x] = memo[x] or kept(x:detach():clone(), kind)
  end
  return copy_tree(self, memo)
end

-- State -----------------------------------------------------------------------------------------------------------

--- Parameters and saved buffers by name, without gradients; the tensors share memory with the module.
---@return table<string, hd.Tensor>
function Module:state_dict()
  local state = {}
  for _, entry in ipairs(all_tensors(self)) do
    if entry[3] ~= "unsaved" then state[entry[1]] = entry[2]:detach() end
  end
  return state
end

local function shape_text(x) return "[" .. table.concat(x:shape(), ",") .. "]" end

local function sorted_keys(t)
  local keys = {}
  for key in next, t do keys[#keys + 1] = key end -- order free: sorted below
  table.sort(keys)
  return keys
end

-- The texts that hd.load gives as its second result: `net:load_state_dict(assert(hd.load(path)))` is right.
local function is_metadata(opts)
  if type(opts) ~= "table" or opts.strict ~= nil then return false end
  for _, text in next, opts do -- order free: all must be texts
    if type(text) ~= "string" then return false end
  end
  return true
end

local function check_state(where, state)
  for name, x in next, check.arg(where, "state", state, "table") do -- order free: any fault will do
    check.arg(where, "name in the state", name, "string")
    check.arg(where, ("'%s'"):format(name), x, "tensor")
  end
end

-- What differs between the module's entries and a state: lists of names, and of shape messages.
local function differences(own, state)
  local missing, shapes, known = {}, {}, {}
  for _, entry in ipairs(own) do
    local name, x = entry[1], entry[2]
    known[name] = true
    if not state[name] then
      missing[#missing + 1] = name
    elseif shape_text(x) ~= shape_text(state[name]) then
      shapes[#shapes + 1] = ("%s is %s, expected %s"):format(name, shape_text(state[name]), shape_text(x))
    end
  end
  local unexpected = {}
  for _, name in ipairs(sorted_keys(state)) do
    if not known[name] then unexpected[#unexpected + 1] = name end
  end
  return missing, unexpected, shapes
end

-- "2 missing: a, b", with no more than eight names.
local function listing(label, names)
  if #names == 0 then return nil end
  local shown = table.concat(names, ", ", 1, math.min(#names, 8))
  return ("%d %s: %s%s"):format(#names, label, shown, #names > 8 and ", …" or "")
end

local function report(where, missing, unexpected, shapes)
  local parts = {}
  parts[#parts + 1] = listing("of other shape", shapes)
  parts[#parts + 1] = listing("missing", missing)
  parts[#parts + 1] = listing("not in the model", unexpected)
  if #parts > 0 then
    check.fail(where, "the state differs from what the model expected: %s", table.concat(parts, "; "))
  end
end

-- Let layers rename what older files call otherwise (`upgrade_state(state, prefix)`), in a copy of the table.
local function upgraded(self, state)
  local copy = {}
  for key, x in next, state do copy[key] = x end -- order free: a copy
  for name, m in self:named_modules() do
    if m.upgrade_state then m:upgrade_state(copy, name == "" and "" or name .. ".") end
  end
  return copy
end

--- Copy a state into parameters and buffers. All differences come in one message, and nothing is copied then.
---@param state table<string, hd.Tensor>  as from state_dict or hd.load
---@param opts? { strict: boolean }  strict = false lets names be missing or unknown; shapes must agree always
---@return { missing: string[], unexpected: string[] }
function Module:load_state_dict(state, opts)
  local where = getmetatable(self).name .. ":load_state_dict"
  check_state(where, state)
  if is_metadata(opts) then opts = nil end
  local o = check.options(where, opts, { { "strict", "boolean", true } })
  local own = {}
  for _, entry in ipairs(all_tensors(self)) do
    if entry[3] ~= "unsaved" then own[#own + 1] = entry end
  end
  state = upgraded(self, state)
  local missing, unexpected, shapes = differences(own, state)
  report(where, o.strict and missing or {}, o.strict and unexpected or {}, shapes)
  local _ <close> = core.no_grad()
  for _, entry in ipairs(own) do
    if state[entry[1]] then entry[2]:copy_(state[entry[1]]) end
  end
  return { missing = missing, unexpected = unexpected }
end

-- Texts -----------------------------------------------------------------------------------------------------------

-- The step from a module to one below it in Lua's form, "" if it is not there.
local function path_to(parent, wanted)
  for _, child, step in children(parent) do
    if child == wanted then return step end
    local rest = path_to(child, wanted)
    if rest then return step .. rest end
  end
end

-- The path of the first of a list of running modules, innermost first: "unet.down[2].conv1".
local function describe(running)
  local path = getmetatable(running[#running]).name:lower()
  for i = #running - 1, 1, -1 do
    path = path .. (path_to(running[i + 1], running[i]) or "." .. getmetatable(running[i]).name:lower())
  end
  return path
end

core.set_module_call(call, describe)

--- What distinguishes the layer in print: "3, 64, kernel 3"; each layer has its own.
---@return string
function Module.extra(_) return "" end

local function tree_text(self, indent, lines, label)
  local cls = getmetatable(self).name
  lines[#lines + 1] = ("%s%s%s(%s)"):format(indent, label, cls, self:extra())
  for key, child in children(self) do tree_text(child, indent .. "  ", lines, key .. ": ") end
  return lines
end

function Module:__tostring() return table.concat(tree_text(self, "", {}, ""), "\n") end

-- Zeros for a shape (token models give a tensor of their own); anything else is passed on.
local function example(value)
  if type(value) == "table" and math.type(value[1]) then return core.zeros(value) end
  return value
end

local function own_parameters(m)
  local own = 0
  for _, field in ipairs(names_of(m)) do
    if parameters[rawget(m, field)] then own = own + rawget(m, field):numel() end
  end
  return own
end

-- Run forward with an observer that collects a row per call: { name, class, output shape, own parameters }. Layers
-- whose weights another one used (a norm inside a convolution) come last, without a shape.
local function collect_rows(self, inputs)
  local names, seen, rows = {}, {}, {}
  for name, m in self:named_modules() do names[m] = name end
  observe = function(m, ...)
    local out = ...
    seen[m] = true
    local shape = check.is_tensor(out) and shape_text(out) or ""
    rows[#rows + 1] = { names[m] or "?", getmetatable(m).name, shape, own_parameters(m) }
    return ...
  end
  local ok, message = pcall(self, table.unpack(inputs))
  observe = nil
  if not ok then error(message, 0) end
  for name, m in self:named_modules() do
    local own = own_parameters(m)
    if not seen[m] and own > 0 then rows[#rows + 1] = { name, getmetatable(m).name, "", own } end
  end
  return rows
end

--- A table of the layers in the order in which they run (those inside of another one last): name, class, output shape,
--- parameters.
---@param ... any  an input's shape (zeros are made), or the inputs themselves, as forward takes them
---@return string
function Module:summary(...)
  local inputs = table.pack(...)
  for i = 1, inputs.n do inputs[i] = example(inputs[i]) end
  local _ <close> = core.no_grad()
  local lines = { ("%-44s %-18s %-20s %12s"):format("layer", "class", "output", "parameters") }
  for _, row in ipairs(collect_rows(self, inputs)) do
    lines[#lines + 1] = ("%-44s %-18s %-20s %12d"):format(table.unpack(row))
  end
  lines[#lines + 1] = ("%d parameters in %d tensors"):format(self:num_parameters())
  return table.concat(lines, "\n")
end

class.guard(Module, {
  "register_buffer", "named_modules", "named_parameters", "parameters", "named_buffers", "buffers", "num_parameters",
  "apply", "train", "eval", "requires_grad_", "zero_grad", "to", "clone", "state_dict", "load_state_dict", "summary",
})

return { Module = Module, Parameter = Parameter, is_module = is_module, children = children }
