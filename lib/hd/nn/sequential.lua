-- hd/nn/sequential.lua: layers one after the other, and lists of layers. Any Lua function is a layer.

local class = require "hd.class"
local check = require "hd.check"
local module = require "hd.nn.module"
local Module = module.Module

local function check_layer(where, i, layer)
  if not module.is_module(layer) then check.arg(where, "layer " .. i, layer, "callable") end
  return layer
end

-- Layers given one by one or as one list.
local function gather(where, ...)
  local list = { ... }
  if #list == 1 and type(list[1]) == "table" and getmetatable(list[1]) == nil then list = list[1] end
  for i, layer in ipairs(list) do check_layer(where, i, layer) end
  return list
end

--- Add a layer at the end; returns self.
---@param layer hd.nn.Module|function
---@return hd.nn.Module self
local function append(self, layer)
  self[#self + 1] = check_layer(getmetatable(self).name, #self + 1, layer)
  return self
end

---@class hd.nn.Sequential : hd.nn.Module
local Sequential = class("Sequential", Module)

--- Layers that run one after the other: `nn.Sequential(nn.Conv2d(3, 8, 3), F.relu, function(x) return x * 2 end)`.
---@param ... hd.nn.Module|function  or one list of them
function Sequential:init(...)
  for _, layer in ipairs(gather("Sequential", ...)) do self:append(layer) end
end

Sequential.append = append

---@param x any
---@return any
function Sequential:forward(x)
  for i = 1, #self do x = self[i](x) end
  return x
end

---@class hd.nn.ModuleList : hd.nn.Module
local ModuleList = class("ModuleList", Module)

--- A list of layers that a model uses as it likes: `for i, block in ipairs(self.blocks) do`.
--- A plain list of layers assigned to a field of a module becomes one.
---@param layers? table
function ModuleList:init(layers)
  for _, layer in ipairs(gather("ModuleList", layers)) do self:append(layer) end
end

ModuleList.append = append

class.guard(Sequential, { "append" })
class.guard(ModuleList, { "append" })

return { Sequential = Sequential, ModuleList = ModuleList }
