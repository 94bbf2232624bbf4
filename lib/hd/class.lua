-- hd/class.lua: the one way to make a class. Calls: nothing. Called by: every class of lib/hd and users' own layers.
-- A class is the metatable of its objects; `init` is the constructor; metamethods are inherited from the base.

local INHERITED = {
  "__call", "__close", "__eq", "__gc", "__len", "__name", "__newindex", "__pairs", "__tostring",
}

local function construct(cls, ...)
  local object = setmetatable({}, cls)
  local init = cls.init
  if init then init(object, ...) end
  return object
end

--- Make a class; calling it makes an object and runs `init(self, ...)`.
--- Metamethods of the base are copied when the class is made, so define them before deriving.
---@param name string  shown in messages and by tostring
---@param base? table  the class to inherit from
---@return table class  with the fields `name` and `super`
local function class(name, base)
  local cls = { name = name, super = base }
  cls.__index = cls
  if base then
    for _, key in ipairs(INHERITED) do cls[key] = rawget(base, key) end
  end
  cls.__name = name
  return setmetatable(cls, { __index = base, __call = construct, __name = "class " .. name })
end

--- Is `value` an object of `cls` or of a class derived from it?
---@param value any
---@param cls table
---@return boolean
local function is(value, cls)
  if type(value) ~= "table" then return false end
  local c = getmetatable(value)
  while type(c) == "table" do
    if c == cls then return true end
    c = rawget(c, "super")
  end
  return false
end

return setmetatable({ is = is }, {
  __call = function(_, name, base) return class(name, base) end,
})
