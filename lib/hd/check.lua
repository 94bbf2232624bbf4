-- hd/check.lua: the one way to check arguments and option tables.
-- Calls: core.raise, which reports the error at the user's line, core.edit_distance. Called by: all of lib/hd.
-- Types, joined by "|": number integer boolean string table function tensor, callable (a function or an object that can
-- be called), size (an integer or a list of integers), any. Sizes given as 3.0 come back as the integer 3.

local core = require "hd.core"

local check = {}

-- The metatable's name of a userdata or object, or nil.
local function type_name(value)
  local mt = getmetatable(value)
  return type(mt) == "table" and rawget(mt, "__name") or nil
end

--- Raise `where: message` at the user's line.
---@param where string  the function or class that found the fault
---@param format string  as in string.format
---@param ... any
function check.fail(where, format, ...)
  return core.raise((where .. ": " .. format:format(...)):gsub("%z", "\\0"))
end

--- Levenshtein distance of two strings, in bytes; words above 63 are far away from all.
---@param a string
---@param b string
---@return integer
function check.distance(a, b) return core.edit_distance(a, b) end

--- The entry of `list` most like `word`; nil where nothing is near (more than half of the letters, or 3, differ).
---@param word string
---@param list string[]
---@return string?
function check.nearest(word, list)
  local best, least = nil, math.min(4, #word // 2 + 2)
  for _, candidate in ipairs(list) do
    local d = check.distance(word, candidate)
    if d < least then best, least = candidate, d end
  end
  return best
end

--- The text "did you mean 'x'? known: a, b, x" for an unknown word.
---@param word any
---@param list string[]
---@return string
function check.suggestion(word, list)
  local near = type(word) == "string" and check.nearest(word, list)
  local known = #list > 0 and "known: " .. table.concat(list, ", ") or "there are none"
  return (near and ("did you mean '%s'? "):format(near) or "") .. known
end

--- A short text of any value for messages: strings quoted, tensors by type and shape.
---@param value any
---@return string
function check.show(value)
  local t = type(value)
  if t == "string" then return "'" .. (#value > 60 and value:sub(1, 57) .. "..." or value) .. "'" end
  if t == "nil" or t == "number" or t == "boolean" then return tostring(value) end
  if check.is_tensor(value) then
    return ("tensor %s [%s]"):format(value:dtype(), table.concat(value:shape(), ","))
  end
  return "a " .. (type_name(value) or t)
end

--- Is `value` a tensor?
---@param value any
---@return boolean
function check.is_tensor(value)
  return type(value) == "userdata" and type_name(value) == "hd.Tensor"
end

local function is_callable(value)
  if type(value) == "function" then return true end
  local mt = getmetatable(value)
  return type(mt) == "table" and mt.__call ~= nil
end

local function is_size(value)
  if type(value) ~= "table" then return math.tointeger(value) ~= nil end
  for _, v in ipairs(value) do
    if not math.tointeger(v) then return false end
  end
  return #value > 0
end

local MATCH = {
  any = function() return true end,
  integer = function(v) return type(v) == "number" and math.tointeger(v) ~= nil end,
  tensor = check.is_tensor,
  callable = is_callable,
  size = is_size,
}

local function matches(value, kind)
  local test = MATCH[kind]
  if test then return test(value) end
  return type(value) == kind
end

-- Integers given as floats become integers, in lists too.
local function exact(value, kind)
  if kind == "integer" then return math.tointeger(value) end
  if kind ~= "size" then return value end
  if type(value) ~= "table" then return math.tointeger(value) end
  local list = {}
  for i, v in ipairs(value) do list[i] = math.tointeger(v) end
  return list
end

-- The value in its exact form, or nothing where no alternative of `kinds` fits.
local function convert(value, kinds)
  for kind in kinds:gmatch "[^|]+" do
    if matches(value, kind) then return true, exact(value, kind) end
  end
  return false
end

local TEXTS = { callable = "function", size = "integer or list of integers" }

-- Types or a list of words as a text.
local function expected(kinds)
  if type(kinds) == "table" then return table.concat(kinds, ", ") end
  return (kinds:gsub("%a+", TEXTS):gsub("|", " or "))
end

--- Check one argument; returns it (integers given as floats as integers).
---@param where string
---@param name string  the argument's name, for the message
---@param value any
---@param kinds string  types joined by "|"; end with "|nil" for an optional argument
---@return any value
function check.arg(where, name, value, kinds)
  local ok, result = convert(value, kinds)
  if not ok then
    return check.fail(where, "%s is wrong: got %s, expected %s", name, check.show(value), expected(kinds))
  end
  return result
end

--- Check a list whose entries are all of one type; returns it.
---@param where string
---@param name string
---@param value any
---@param kinds string  of each entry
---@return table value
function check.list(where, name, value, kinds)
  check.arg(where, name, value, "table")
  for i = 1, #value do check.arg(where, ("%s[%d]"):format(name, i), value[i], kinds) end
  return value
end

--- Check that a value is one of a list of words; returns it.
---@param where string
---@param name string
---@param value any
---@param list string[]
---@return string value
function check.one_of(where, name, value, list)
  for _, v in ipairs(list) do
    if v == value then return value end
  end
  return check.fail(where, "%s is wrong: got %s. %s", name, check.show(value), check.suggestion(value, list))
end

local function names_of(spec)
  local names = {}
  for i, entry in ipairs(spec) do names[i] = entry[1] end
  return names
end

-- The first key in sorted order that the spec does not have: the same message in each process.
local function unknown_key(opts, names)
  local known, unknown = {}, {}
  for _, name in ipairs(names) do known[name] = true end
  for key in next, opts do -- order free: sorted below
    if not known[key] then unknown[#unknown + 1] = tostring(key) end
  end
  table.sort(unknown)
  return unknown[1]
end

--- Check an option table against a specification and fill in the defaults.
---
---     local o = check.options("Conv2d", opts, {
---       { "stride", "size", 1 }, { "mode", { "zeros", "reflect" }, "zeros" }, { "rate", "number", required = true } })
---
---@param where string  the function or class whose options these are
---@param opts table?
---@param spec table[]  entries { name, types or list of words, default, required = }; their order is that of messages
---@return table options  a new table
function check.options(where, opts, spec)
  if opts == nil then opts = {} end
  if type(opts) ~= "table" then
    return check.fail(where, "options are wrong: got %s, expected a table", check.show(opts))
  end
  local names = names_of(spec)
  local bad = unknown_key(opts, names)
  if bad then
    return check.fail(where, "unknown option '%s'. %s", bad, check.suggestion(bad, names))
  end
  local out = {}
  for _, entry in ipairs(spec) do
    local name, kinds, default = entry[1], entry[2], entry[3]
    local value = opts[name]
    if value == nil then
      if entry.required then
        return check.fail(where, "option '%s' is missing: expected %s", name, expected(kinds))
      end
      out[name] = default
    elseif type(kinds) == "table" then
      out[name] = check.one_of(where, ("option '%s'"):format(name), value, kinds)
    else
      out[name] = check.arg(where, ("option '%s'"):format(name), value, kinds)
    end
  end
  return out
end

--- The same extent in every dimension, or the list given: 3 -> {3, 3}.
---@param where string
---@param name string
---@param value integer|integer[]
---@param dims integer
---@return integer[]
function check.extents(where, name, value, dims)
  check.arg(where, name, value, "size")
  local list = exact(value, "size")
  if type(list) ~= "table" then
    local all = {}
    for i = 1, dims do all[i] = list end
    return all
  end
  if #list ~= dims then
    return check.fail(where, "%s is wrong: got %d numbers, expected 1 or %d", name, #list, dims)
  end
  return list
end

return check
