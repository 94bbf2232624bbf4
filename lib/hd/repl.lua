-- hd/repl.lua: what the prompt adds to Lua: results laid out, completion, help, who, time and show.
-- Calls: hd.core, hd.check, hd.doc, hd. Called by: runtime/app (repl.c, lineedit.c) and `hdlua --doc`.

local check = require "hd.check"
local core = require "hd.core"

local repl = {}

local WIDTH = 79 -- columns of a line of output
local MOST_ENTRIES = 100 -- entries of a table that are printed

-- Values as text ------------------------------------------------------------------------------------------------------

local function is_name(key) return type(key) == "string" and key:find "^[%a_][%w_]*$" ~= nil end

-- Keys of a table in an order that is the same each time: 1..#t, then other keys by type and text.
local function sorted_keys(t)
  local keys, length = {}, rawlen(t)
  for key in next, t do -- order free: sorted below
    if not (math.type(key) == "integer" and key >= 1 and key <= length) then keys[#keys + 1] = key end
  end
  table.sort(keys, function(a, b)
    if type(a) ~= type(b) then return type(a) < type(b) end
    if type(a) == "number" then return a < b end
    return tostring(a) < tostring(b)
  end)
  return keys, length
end

-- "tensor f32 [2,3]", without a look at the elements.
local function tensor_kind(x)
  local ok, text = pcall(function() return ("tensor %s [%s]"):format(x:dtype(), table.concat(x:shape(), ",")) end)
  return ok and text or tostring(x) -- released
end

local function own_text(value)
  local mt = getmetatable(value)
  return type(mt) == "table" and rawget(mt, "__tostring") ~= nil
end

-- A value inside a table: one short piece of text.
local function brief(value)
  if check.is_tensor(value) then return tensor_kind(value) end
  local t = type(value)
  if t == "string" then
    local cut = #value > 60 and value:sub(1, 57) .. "..." or value
    return (("%q"):format(cut):gsub("\\\n", "\\n"))
  end
  if t == "table" and not own_text(value) then
    local mt = getmetatable(value)
    local name = type(mt) == "table" and rawget(mt, "__name")
    if name then return tostring(name) .. " {...}" end
    return next(value) == nil and "{}" or "{...}"
  end
  local text = tostring(value)
  return text:find "\n" and text:match "^[^\n]*" .. " ..." or text
end

-- Texts of the list entries and of the named ones; the last line says how many were left out.
local function table_entries(t)
  local keys, length = sorted_keys(t)
  local list, named = {}, {}
  for i = 1, math.min(length, MOST_ENTRIES) do list[i] = brief(rawget(t, i)) end
  if length > MOST_ENTRIES then list[#list + 1] = ("... (%d in all)"):format(length) end
  for i = 1, math.min(#keys, MOST_ENTRIES) do
    local key = keys[i]
    named[i] = (is_name(key) and key or "[" .. brief(key) .. "]") .. " = " .. brief(rawget(t, key))
  end
  if #keys > MOST_ENTRIES then named[#named + 1] = ("... (%d in all)"):format(#keys) end
  return list, named
end

-- The list entries fill lines, each named one has its own.
local function broken_lines(list, named)
  local lines, line = {}, ""
  for _, text in ipairs(list) do
    if line ~= "" and #line + #text + 4 > WIDTH then
      lines[#lines + 1], line = line, ""
    end
    line = line == "" and "  " .. text .. "," or line .. " " .. text .. ","
  end
  if line ~= "" then lines[#lines + 1] = line end
  for _, text in ipairs(named) do lines[#lines + 1] = "  " .. text .. "," end
  return lines
end

local function table_text(t)
  local list, named = table_entries(t)
  local all = table.move(named, 1, #named, #list + 1, table.move(list, 1, #list, 1, {}))
  local one_line = "{ " .. table.concat(all, ", ") .. " }"
  if #all == 0 then return "{}" end
  if #one_line <= WIDTH then return one_line end
  return "{\n" .. table.concat(broken_lines(list, named), "\n") .. "\n}"
end

--- The text of a value as the prompt prints it: a table one level deep, anything else as `tostring` has it (a tensor
--- under a line of its type, shape and range).
---@param value any
---@return string
function repl.text(value)
  if type(value) == "table" and not own_text(value) then return table_text(value) end
  return tostring(value)
end

--- Print values: on one line where all are short, otherwise one below the other.
---@param ... any
function repl.print(...)
  local texts, separator = {}, "\t"
  for i = 1, select("#", ...) do
    texts[i] = repl.text((select(i, ...)))
    if texts[i]:find "\n" then separator = "\n" end
  end
  io.stdout:write(table.concat(texts, separator), "\n")
end

-- Completion ----------------------------------------------------------------------------------------------------------

local KEYWORDS = {
  "and", "break", "do", "else", "elseif", "end", "false", "for", "function", "goto", "if", "in", "local", "nil", "not",
  "or", "repeat", "return", "then", "true", "until", "while",
}

-- Adds the names that value[name] finds: its own fields and those of the tables behind __index. Where __index is a
-- function, the metafield __names may list what it makes.
local function add_names(value, found)
  for _ = 1, 16 do -- a chain this long is a loop
    if type(value) == "table" then
      for key in next, value do -- order free: the candidates are sorted
        if is_name(key) then found[key] = true end
      end
    end
    local mt = getmetatable(value)
    if type(mt) ~= "table" then return end
    for _, name in ipairs(rawget(mt, "__names") or {}) do found[name] = true end
    local behind = rawget(mt, "__index")
    if check.is_tensor(value) then behind = core.methods end
    if type(behind) ~= "table" or behind == value then return end
    value = behind
  end
end

-- value[name], or nil where that raises.
local function field_of(value, name)
  local ok, field = pcall(function() return value[name] end)
  if ok then return field end
end

-- The value of "a.b.c" among the globals, or nil.
local function resolve(path)
  local value = _G
  for name in path:gmatch "[^.]+" do value = field_of(value, name) end
  return value
end

local function is_callable(value)
  if type(value) == "function" then return true end
  local mt = getmetatable(value)
  return type(mt) == "table" and rawget(mt, "__call") ~= nil
end

-- Names of value that begin with `part`, sorted. After a colon only what can be called; `_names` only when asked for.
local function matching(value, part, calls_only)
  local found, names = {}, {}
  add_names(value, found)
  if value == _G then
    for _, word in ipairs(KEYWORDS) do found[word] = true end
  end
  for name in next, found do -- order free: sorted below
    if name:sub(1, #part) == part and (part ~= "" or name:sub(1, 1) ~= "_") then
      if not calls_only or is_callable(field_of(value, name)) then names[#names + 1] = name end
    end
  end
  table.sort(names)
  return names
end

-- Is the end of the text inside a string?
local function in_string(text)
  local quote
  for c in text:gsub("\\.", ""):gmatch "[\"']" do
    if not quote then quote = c elseif quote == c then quote = nil end
  end
  return quote ~= nil
end

-- Every module of the library, for `require "hd.`.
local function modules(part)
  local names = {}
  for name in next, package.loaded do -- order free: sorted below
    if name:sub(1, #part) == part then names[#names + 1] = name end
  end
  table.sort(names)
  return names
end

--- Words that may stand in place of the one being typed.
---@param before string  the line up to the word
---@param word string
---@return string[]?  nil inside a string, where names of files fit better
function repl.complete(before, word)
  if before:find "require%s*%(?%s*[\"']$" then return modules(word) end
  if in_string(before) then return nil end
  local head, separator, part = word:match "^(.-)([.:]?)([%a_]?[%w_]*)$"
  local value = _G
  if separator ~= "" then
    value = head:find "^[%a_][%w_.]*$" and resolve(head)
    if value == nil or value == false then return {} end
  end
  local words = matching(value, part, separator == ":")
  for i, name in ipairs(words) do words[i] = head .. separator .. name end
  return words
end

-- Help ----------------------------------------------------------------------------------------------------------------

local OVERVIEW = [[
help(x), help "F.conv2d"   what a function or class does; a name may be written as you would call it
who()                      the variables of this session
time(f, ...)               call f and say how long it took
show(x)                    a picture in the terminal, or a table with everything in it
_                          the last result

Tab completes, Ctrl-C stops what runs, Ctrl-D ends. The library is `hd`: try hd.<Tab>.]]

--- The documentation of a name.
---@param name string  as in "hd.nn.Conv2d", "Conv2d", "F.conv2d", "x:sum"
---@return string?  nil and a message where there is none
---@return string? message
function repl.doc(name)
  if not pcall(require, "hd.doc_data") then
    return nil, "doc: the documentation has not been generated.\n  hint: `make docs` does."
  end
  local doc = require "hd.doc"
  local entry, near = doc.lookup((name:gsub("^F%.", "hd.nn.functional.")))
  if entry then return doc.format(entry) end
  local hint = #near > 0 and (". did you mean '%s'?"):format(table.concat(near, "', '")) or ""
  return nil, ("doc: no such name: got '%s'%s"):format(name, hint)
end

-- The documented name of a function or class of the library.
local function name_of(value)
  local ok, data = pcall(require, "hd.doc_data")
  local hd = require "hd"
  for _, entry in ipairs(ok and data.entries or {}) do
    local path = entry.name:match "^hd%.([%w_.]+)$"
    local found = hd
    for name in (path or ""):gmatch "[^.]+" do found = type(found) == "table" and found[name] or nil end
    if path and found == value then return entry.name end
  end
end

local function help(...)
  local value = ...
  if select("#", ...) == 0 then return print(OVERVIEW) end
  if check.is_tensor(value) then return print(tensor_kind(value) .. "; its methods: x:<Tab>, help \"x:sum\"") end
  local name = type(value) == "string" and value or name_of(value)
  if not name then return print("help: not documented: " .. brief(value)) end
  local text, message = repl.doc(name)
  print(text or message)
end

-- The session ---------------------------------------------------------------------------------------------------------

local STANDARD = {}
for word in ("_G _VERSION arg assert collectgarbage coroutine debug dofile error getmetatable io ipairs load " ..
  "loadfile math next os package pairs pcall print rawequal rawget rawlen rawset require select setmetatable string " ..
  "table tonumber tostring type utf8 warn xpcall hd help who time show _"):gmatch "%S+" do
  STANDARD[word] = true
end

local function who()
  local none = true
  for _, name in ipairs((sorted_keys(_G))) do
    if not STANDARD[name] then
      print(("%-16s %s"):format(tostring(name), brief(_G[name])))
      none = false
    end
  end
  if none then print "no variables yet; a name without `local` lasts from line to line" end
end

local function time(f, ...)
  if not is_callable(f) then
    return check.fail("time", "nothing to call: got %s, expected a function: time(function() ... end)", check.show(f))
  end
  local start = core.clock()
  local results = table.pack(f(...))
  io.stdout:write(("%.3f ms\n"):format((core.clock() - start) * 1e3))
  return table.unpack(results, 1, results.n)
end

-- The whole of a table, nested ones indented; a table inside itself is named only.
local function deep_text(value, indent, open)
  if type(value) ~= "table" or own_text(value) or open[value] then return brief(value) end
  open[value] = true
  local lines, keys, length = {}, sorted_keys(value)
  local inner = indent .. "  "
  for i = 1, length do lines[i] = inner .. deep_text(rawget(value, i), inner, open) end
  for _, key in ipairs(keys) do
    local label = is_name(key) and key or "[" .. brief(key) .. "]"
    lines[#lines + 1] = inner .. label .. " = " .. deep_text(rawget(value, key), inner, open)
  end
  open[value] = nil
  return #lines == 0 and "{}" or "{\n" .. table.concat(lines, ",\n") .. "\n" .. indent .. "}"
end

-- [c,h,w] or [n,c,h,w] with one or three channels, in [-1,1] or u8.
local function is_picture(x)
  local shape = x:shape()
  local c, h, w = table.unpack(shape, #shape - 2)
  return (#shape == 3 or #shape == 4) and (c == 1 or c == 3) and h > 1 and w > 1
end

-- Two rows of pixels to a line of text: the upper one colours the half block, the lower one its background. A picture
-- wider than the line loses rows and columns evenly.
local function picture_text(x)
  local scale, shift = 127.5, 127.5
  if x:dtype() == "u8" then scale, shift = 1, 0 end
  local pixels = x:totable()
  local function colour(row, column)
    local rgb = {}
    for c = 1, 3 do
      local value = pixels[math.min(c, #pixels)][row][column] * scale + shift
      rgb[c] = math.floor(math.max(0, math.min(255, value)) + 0.5)
    end
    return table.concat(rgb, ";")
  end
  local lines, height, width = {}, #pixels[1], #pixels[1][1]
  local step = (width + WIDTH - 1) // WIDTH
  for row = 1, height, 2 * step do
    local cells = {}
    for column = 1, width, step do
      local lower = row + step <= height and "\27[48;2;" .. colour(row + step, column) .. "m" or "\27[49m"
      cells[#cells + 1] = "\27[38;2;" .. colour(row, column) .. "m" .. lower .. "▀"
    end
    lines[#lines + 1] = table.concat(cells) .. "\27[0m"
  end
  return table.concat(lines, "\n")
end

local function show(value)
  if not check.is_tensor(value) then return print(deep_text(value, "", {})) end
  if not is_picture(value) then return print(repl.text(value)) end
  local picture = value:dim() == 4 and require("hd.image").grid(value) or value
  print(picture_text(picture:detach()))
end

--- The globals of a prompt; the library is loaded here.
---@return table<string, any>
function repl.globals()
  return { hd = require "hd", help = help, who = who, time = time, show = show }
end

return repl
