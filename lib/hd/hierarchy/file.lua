-- hd/hierarchy/file.lua: hierarchies in files. A safetensors file holds weights and statistics; its metadata say by
-- which registered function, called with which options, the hierarchy is declared again. No code is read from files.
-- Calls: hd.file, core. Called by: hierarchy/init.

local check = require "hd.check"
local core = require "hd.core"
local file = require "hd.file"

local M = {}
local registered = {}

--- Give a function that declares a hierarchy a name, by which files find it again.
---
---     local bands = hd.hierarchy.register("bands", function(opts) return hd.hierarchy.new { … } end)
---     local H = bands { rate = 8000 }
---
---@param name string
---@param make fun(opts: table?): hd.hierarchy.Hierarchy, table?  its options: numbers, strings, booleans and tables of
---  them; where they hold anything else it also gives those that do not
---@return fun(opts: table?): hd.hierarchy.Hierarchy  declares as `make` does, and remembers name and options
function M.register(name, make)
  check.arg("hierarchy.register", "name", name, "string")
  check.arg("hierarchy.register", "make", make, "callable")
  registered[name] = function(opts)
    local H, plain = make(opts)
    H.declared = { name = name, options = plain or opts or {} }
    return H
  end
  return registered[name]
end

-- What a person wants to know of a file without loading it.
local function summary(H)
  local list = {}
  for i, level in ipairs(H.levels) do
    list[i] = { name = level.name, kind = level.kind, shape = H.shapes[level.name], predict = level.predict,
      context = level.context, steps = level.steps }
  end
  return list
end

-- Numbers, texts, booleans and tables of them, or an error that names what is none.
local function check_plain(where, value)
  if type(value) == "table" and getmetatable(value) == nil then
    for key, v in next, value do check_plain(where .. "." .. tostring(key), v) end -- order free: any fault will do
  elseif type(value) ~= "number" and type(value) ~= "string" and type(value) ~= "boolean" then
    check.fail("H:save", "%s cannot be saved: got %s, expected numbers, texts, booleans and tables of them", where,
      check.show(value))
  end
end

--- Write hierarchy, statistics and networks into one file.
---@param self hd.hierarchy.Hierarchy  declared by a registered function
---@param path string                  ending in .safetensors
---@param models hd.hierarchy.Models
---@return true? done
---@return string? message
function M.save(self, path, models)
  self:check_models("H:save", models)
  check.arg("H:save", "path", path, "string")
  if not self.declared then
    check.fail("H:save", "this hierarchy was declared by no registered function: use hd.hierarchy.register")
  end
  local plan = models._plan.options
  if not plan.net then check.fail("H:save", "networks made by an own function cannot be declared again from a file") end
  check_plain("option", self.declared.options)
  local tensors = {}
  for name, x in next, models:state_dict() do tensors[name] = x end -- order free: separate keys
  for name, x in next, self:stats_dict() do tensors["stats/" .. name] = x end -- order free: separate keys
  return file.save(path, tensors, { metadata = {
    format = "hdlua hierarchy 1", hierarchy = self.declared.name, options = core.json_encode(self.declared.options),
    models = core.json_encode(plan), levels = core.json_encode(summary(self)), regime = models.regime,
  } })
end

--- Declare a saved hierarchy again and load its statistics and networks.
---@param path string
---@return hd.hierarchy.Hierarchy? H  or nil and a message
---@return hd.hierarchy.Models|string models
function M.load(path)
  local tensors, declared = file.load(check.arg("hierarchy.load", "path", path, "string"))
  if not tensors then return nil, declared end
  if type(declared) ~= "table" or declared.format ~= "hdlua hierarchy 1" then
    return nil, ("'%s' holds no hierarchy: its format is '%s', expected 'hdlua hierarchy 1'"):format(path,
      type(declared) == "table" and declared.format or "none")
  end
  local make = registered[declared.hierarchy]
  if not make then
    local names = {}
    for name in next, registered do names[#names + 1] = name end -- order free: sorted below
    table.sort(names)
    return nil, ("'%s' holds the hierarchy '%s', which is not registered. %s"):format(path, declared.hierarchy,
      check.suggestion(declared.hierarchy, names))
  end
  local weights, stats = {}, {}
  for name, x in next, tensors do -- order free: separate keys
    local statistic = name:match "^stats/(.*)$"
    if statistic then stats[statistic] = x else weights[name] = x end
  end
  local H = make(core.json_decode(declared.options)):load_stats_dict(stats)
  local models = H:models(core.json_decode(declared.models))
  models:load_state_dict(weights)
  return H, models
end

return M
