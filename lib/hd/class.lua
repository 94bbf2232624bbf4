-- hd/class.lua: the one way to make a class. Calls: hd.check. Called by: every class of lib/hd and users' own layers.
-- A class is the metatable of its objects; `init` is the constructor; metamethods are inherited from the base.

local check = require "hd.check"

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

local guarded = setmetatable({}, { __mode = "k" }) -- what a guard stands for, for the documentation

-- The method behind a check of `self`. Not for what runs in every step of a layer.
local function guard_method(cls, name, method)
  local function guard(self, ...)
    if is(self, cls) then return method(self, ...) end
    local known, text = pcall(check.show, self)
    return check.fail(("%s:%s"):format(cls.name, name), "called on a wrong object: got %s, expected one of %s\n"
      .. "  hint: methods are called with a colon, object:%s(...)", known and text or type(self), cls.name, name)
  end
  guarded[guard] = method
  return guard
end

--- Let the methods of a class refuse a wrong `self`, as in `set.batches{}` for `set:batches{}`. Call it when all are
--- defined.
---@param cls table
---@param names string[]
local function guard(cls, names)
  for _, name in ipairs(names) do cls[name] = guard_method(cls, name, assert(cls[name], name)) end
end

return setmetatable({ is = is, guard = guard, guarded = guarded }, {
  __call = function(_, name, base) return class(name, base) end,
})
