-- scripts/gen_docs.lua [--check]: writes docs/reference.md, lib/meta/hd.d.lua (LuaLS stubs) and lib/hd/doc_data.lua
-- (help of the REPL and `hdlua --doc`) from two sources: the doc comments of the code and runtime/ops/op_list.def; and
-- docs/mistakes.md (scripts/mistakes.lua).
-- Run under hdlua from the root of the tree. It walks what `require "hd"` really offers, so that nothing public is
-- missed and nothing private is shown. With --check nothing is written; it fails where a file is stale or a public
-- function has no doc comment.
--
-- Lua: `---` lines above the function or the class (text first, then LuaLS annotations). A method with a plain `--`
--      comment is the library's own and is not shown.
-- C:   in runtime/bind/*.c `// hd.NAME(arguments) -> result: text`, and x:NAME or rng:NAME for methods; the comment
--      goes on in the lines below.

local hd = require "hd"
local class = require "hd.class"

local undocumented = {}

local function read_lines(path)
  local lines = {}
  for line in io.lines(path) do lines[#lines + 1] = line end
  return lines
end

local sources = {} -- path -> lines
local function source(path)
  sources[path] = sources[path] or read_lines(path)
  return sources[path]
end

local function files(command)
  local list = {}
  for path in io.popen(command .. " | sort"):lines() do list[#list + 1] = path end
  return list
end

local function sorted_keys(t)
  local keys = {}
  for key in pairs(t) do
    if type(key) == "string" then keys[#keys + 1] = key end
  end
  table.sort(keys)
  return keys
end

-- Doc comments ----------------------------------------------------------------------------------------------------

-- The `---` lines right above line `number`, as text lines and annotation lines.
local function comment_above(path, number)
  local lines = source(path)
  local first = number
  while first > 1 and lines[first - 1]:find "^%s*%-%-%-" do first = first - 1 end
  local text, notes = {}, {}
  for i = first, number - 1 do
    local note = lines[i]:match "^%s*%-%-%-%s?(@.*)$"
    local words = lines[i]:match "^%s*%-%-%-%s?(.*)$"
    if note then
      notes[#notes + 1] = note
    elseif #notes > 0 then -- an annotation goes on
      notes[#notes] = notes[#notes] .. " " .. words:gsub("^%s+", "")
    else
      text[#text + 1] = words
    end
  end
  while text[#text] == "" do text[#text] = nil end
  return first < number and { text = table.concat(text, "\n"), notes = notes } or nil
end

-- "fun(x: a, y: b): c  text" -> type, text: two spaces divide them.
local function split_type(rest)
  local kind, text = rest:match "^(.-)%s%s+(.*)$"
  return kind or rest, text or ""
end

-- The pieces of a text between separators (one character) that stand outside of brackets.
local function split_outside(text, separator)
  local pieces, depth, start = {}, 0, 1
  for i = 1, #text do
    local c = text:sub(i, i)
    if c:find "[<{(]" then depth = depth + 1 elseif c:find "[>})]" then depth = depth - 1 end
    if c == separator and depth == 0 then
      pieces[#pieces + 1] = text:sub(start, i - 1)
      start = i + 1
    end
  end
  pieces[#pieces + 1] = text:sub(start)
  return pieces
end

-- "number loss, table<string, number> parts" -> { { "loss", "number", text }, ... }; one without a name where there is
-- only a type.
local function split_results(kind, text)
  local results = {}
  for i, piece in ipairs(split_outside(kind, ",")) do
    local words = split_outside(piece:gsub("^%s+", ""), " ")
    if #words ~= 2 or words[1]:find ":$" then return { { "", kind, text } } end
    results[i] = { words[2], words[1], text }
  end
  return results
end

-- A text as a sentence, unless it begins with a formula ("x + y"), a name of the library or a type ("bool: ...").
local function capitalised(text)
  local word, after = text:match "^(%l+)(.?)"
  local prose = word and (word == "a" or #word > 1) and word ~= "bool" and after:find "^[ ,:;-]"
  return prose and text:gsub("^%l", string.upper) or text
end

-- Annotations as lists for people: params { name, type, text } and returns { name, type, text }.
local function describe_notes(notes)
  local params, returns = {}, {}
  for _, note in ipairs(notes) do
    local name, rest = note:match "^@param%s+(%S+)%s+(.*)$"
    if name then
      local kind, text = split_type(rest)
      params[#params + 1] = { name, kind, text }
    end
    rest = note:match "^@return%s+(.*)$"
    if rest then
      local kind, text = split_type(rest)
      for _, result in ipairs(split_results(kind, text)) do returns[#returns + 1] = result end
    end
  end
  return #params > 0 and params or nil, #returns > 0 and returns or nil
end

-- Comments of C: name -> { signature, text }.
local function read_c_comments()
  local found, current = {}, nil
  for _, path in ipairs(files "ls runtime/bind/*.c runtime/bind/*.h") do
    for _, line in ipairs(source(path)) do
      local body = line:match "^//%s?(.*)$"
      local name = body and body:match "^(hd%.[%w_.:]+)%(" or body and body:match "^(%l+:[%w_]+)%("
      if name then
        local signature, text = body:match "^(.-):%s+(.*)$"
        if not signature or not signature:find("(", 1, true) then signature, text = body:gsub(":$", ""), "" end
        current = { signature = signature, text = text }
        found[name] = current
      elseif body and current then
        current.text = current.text .. (current.text ~= "" and " " or "") .. body
      else
        current = nil
      end
    end
  end
  return found
end

local c_comments = read_c_comments()

-- The values of op_list.def that are no tensors.
local VALUE_TYPES = {
  alpha = "number", beta = "number", value = "number", scale = "number", eps = "number", dtype = "string",
  mode = "string", activation = "string", keepdim = "boolean", unbiased = "boolean", align_corners = "boolean",
  dim = "integer", dim2 = "integer", start = "integer", length = "integer", index = "integer", groups = "integer",
  dims = "integer|integer[]", sizes = "integer[]", order = "integer[]", pads = "integer[]", size = "integer|integer[]",
  scale_factor = "number|number[]", kernel = "integer|integer[]", stride = "integer|integer[]",
  padding = "integer|integer[]", dilation = "integer|integer[]", output_padding = "integer|integer[]",
}

-- One word of a signature in op_list.def: "weight?" -> { name, type, text }.
local function op_argument(word, first)
  local name, suffix = word:match "^([%a_][%w_]*)(.*)$"
  local kind = not first and not suffix:find(":t", 1, true) and VALUE_TYPES[name] or "hd.Tensor"
  if suffix:find("#", 1, true) then kind = kind .. "|number" end
  if suffix:find("*", 1, true) then kind = kind .. "[]" end
  return { name .. (suffix:find("?", 1, true) and "?" or ""), kind, "" }
end

-- op_list.def: name -> { params, options, text, inplace }.
local function read_ops()
  local ops = {}
  for _, line in ipairs(source "runtime/ops/op_list.def") do
    local name, signature = line:match '^HD_OP%(([%w_]+),%s*"([^"]*)"'
    if name then
      local op = { params = {}, options = {}, forms = line:match '"([FMI!]+)", ".*"%)$' }
      op.text = line:match '"[FMI!]+", "(.*)"%)$':gsub('\\"', '"')
      op.text = capitalised(op.text)
      local values, options = signature:match "^([^|]*)|?(.*)$"
      for word in values:gmatch "%S+" do op.params[#op.params + 1] = op_argument(word, #op.params == 0) end
      for word in options:gmatch "%S+" do op.options[#op.options + 1] = word .. " =" end
      ops[name] = op
    end
  end
  return ops
end

local ops = read_ops()

-- Entries ---------------------------------------------------------------------------------------------------------

local entries, by_name = {}, {}

local function add(entry)
  entries[#entries + 1] = entry
  by_name[entry.name] = entry
  return entry
end

-- Parameter names as declared, with a question mark where the annotation has one.
local function lua_arguments(f, notes, skip_self)
  local info = debug.getinfo(f, "u")
  local optional, names = {}, {}
  for _, note in ipairs(notes or {}) do
    local name = note:match "^@param%s+([%w_]+)%?"
    if name then optional[name] = true end
  end
  for i = skip_self and 2 or 1, info.nparams do
    local name = debug.getlocal(f, i)
    names[#names + 1] = name .. (optional[name] and "?" or "")
  end
  if info.isvararg then names[#names + 1] = "..." end
  return "(" .. table.concat(names, ", ") .. ")"
end

local function path_of(f)
  local info = debug.getinfo(f, "S")
  local path = info.source:match "^@.-(lib/hd.*)$"
  return path, info.linedefined
end

-- An op as function or method, plain or in place (x:exp_).
local function add_op(name, op, kind)
  local params, notes, words = {}, {}, {}
  for i = kind == "method" and 2 or 1, #op.params do params[#params + 1] = op.params[i] end
  if #op.options > 0 then params[#params + 1] = { "opts?", "table", "{" .. table.concat(op.options, ", ") .. "}" } end
  for i, p in ipairs(params) do
    words[i] = p[1]
    notes[i] = ("@param %s %s  %s"):format(p[1], p[2], p[3]):gsub("%s+$", "")
  end
  notes[#notes + 1] = "@return hd.Tensor"
  local in_place = name:find "_$" and not ops[name:match "[%w_]+$"]
  return add {
    name = name, kind = kind, signature = ("%s(%s)"):format(name, table.concat(words, ", ")),
    text = op.text .. (in_place and "; in place" or ""), notes = notes, params = #params > 0 and params or nil,
    returns = { { "", "hd.Tensor", "" } },
  }
end

local function add_c_function(name, kind)
  local comment, last = c_comments[name], name:match "[%w_]+$"
  local op = ops[last] or ops[last:gsub("_$", "")]
  if comment then
    local text = capitalised(comment.text)
    return add { name = name, kind = kind, signature = comment.signature, text = text, notes = {} }
  elseif op then
    return add_op(name, op, kind)
  end
  undocumented[#undocumented + 1] = name
end

local function add_function(name, f, kind)
  f = class.guarded[f] or f
  local path, line = path_of(f)
  if not path then return add_c_function(name, kind) end
  local above = source(path)[line - 1] or ""
  if kind == "method" and above:find "^%s*%-%-" and not above:find "^%s*%-%-%-" then return end
  local comment = comment_above(path, line)
  if not comment then
    undocumented[#undocumented + 1] = ("%s (%s:%d)"):format(name, path, line)
    return
  end
  local params, returns = describe_notes(comment.notes)
  return add {
    name = name, kind = kind, signature = name .. lua_arguments(f, comment.notes, kind == "method"),
    text = comment.text, notes = comment.notes, params = params, returns = returns,
  }
end

-- Classes ---------------------------------------------------------------------------------------------------------

local function is_class(value)
  local mt = getmetatable(value)
  return type(mt) == "table" and type(mt.__name) == "string" and mt.__name:find "^class " ~= nil
end

-- The comments with a `---@class NAME` annotation: NAME -> comment.
local function read_class_comments()
  local found = {}
  for _, path in ipairs(files "find lib/hd -name '*.lua'") do
    for number, line in ipairs(source(path)) do
      local name = line:match "^%-%-%-@class%s+([%w_.]+)"
      if name then
        local below = number
        while (source(path)[below] or ""):find "^%-%-%-" do below = below + 1 end
        found[name] = comment_above(path, below)
      end
    end
  end
  return found
end

local class_comments = read_class_comments()

local function inherits(cls, key)
  local base = rawget(cls, "super")
  return base ~= nil and base[key] ~= nil
end

local function add_class(name, cls)
  local comment, init = class_comments[name] or class_comments[cls.name], cls.init
  local init_comment = init and comment_above(path_of(init))
  if not (comment and comment.text ~= "") and not init_comment then
    undocumented[#undocumented + 1] = ("%s (a comment with ---@class %s)"):format(name, name)
    return
  end
  comment = comment or { text = "", notes = {} }
  local notes = init_comment and init_comment.notes or comment.notes
  local text = comment.text
  if init_comment and init_comment.text ~= "" then text = text .. (text ~= "" and "\n" or "") .. init_comment.text end
  local params, returns = describe_notes(notes)
  add {
    name = name, kind = "class", signature = name .. (init and lua_arguments(init, notes, true) or "(...)"),
    text = text, notes = notes, class_notes = comment.notes, params = params, returns = returns,
    base = rawget(cls, "super"), value = cls,
  }
  for _, key in ipairs(sorted_keys(cls)) do
    local value = rawget(cls, key)
    if type(value) == "function" and not key:find "^_" and key ~= "init" then
      local own = path_of(value) and comment_above(path_of(value))
      if own and own.text ~= "" or not inherits(cls, key) then add_function(name .. ":" .. key, value, "method") end
    end
  end
end

-- The public tree -------------------------------------------------------------------------------------------------

-- Sub-modules may be loaded only when they are asked for: name them by the files of lib/hd.
local function module_names()
  local names = {}
  for _, path in ipairs(files "find lib/hd -name '*.lua'") do
    local name = path:gsub("^lib/", ""):gsub("%.lua$", ""):gsub("/init$", "")
    names[#names + 1] = name
  end
  return names
end

local function follow(name)
  local value = hd
  for part in name:gmatch "/([^/]+)" do
    if type(value) ~= "table" or is_class(value) then return nil end
    local ok, inner = pcall(function() return value[part] end)
    if not ok then return nil end
    value = inner
  end
  return value
end

-- The first comment of a file, without its first word: what a module is for.
local function module_text(name)
  local base = "lib/" .. name:gsub("%.", "/")
  for _, path in ipairs { base .. ".lua", base .. "/init.lua" } do
    local file = io.open(path)
    if file then
      file:close()
      local words = {}
      for _, line in ipairs(source(path)) do
        local text = line:match "^%-%-%s?(.*)$"
        if not text or text:find "^Calls:" then break end
        words[#words + 1] = text:match "^(.-)%s*Calls:" or text
      end
      return capitalised((table.concat(words, "\n"):gsub("^%S+%.lua:?%s*", "")))
    end
  end
  return ""
end

local seen = {}
local walk

local function add_module(name, value)
  add { name = name, kind = "module", signature = name, text = module_text(name), notes = {} }
  local mt = getmetatable(value)
  if type(mt) == "table" and type(mt.__call) == "function" and path_of(mt.__call) then
    local path, line = path_of(mt.__call)
    local comment = comment_above(path, line)
    if comment then
      local params, returns = describe_notes(comment.notes)
      local entry = by_name[name]
      entry.signature = name .. lua_arguments(mt.__call, comment.notes, true)
      entry.text, entry.notes, entry.params, entry.returns = comment.text, comment.notes, params, returns
    end
  end
  for _, key in ipairs(sorted_keys(value)) do
    if not key:find "^_" then walk(name .. "." .. key, value[key]) end
  end
end

function walk(name, value)
  if type(value) == "function" then
    add_function(name, value, "function")
  elseif type(value) == "table" and not seen[value] and (name == "hd" or next(value) ~= nil) then
    seen[value] = true
    if is_class(value) then add_class(name, value) else add_module(name, value) end
  end
end

-- Methods of the C types: tensors as x:name, generators as rng:name.
local function walk_methods(prefix, metatable)
  local methods = metatable.__index
  if type(methods) == "function" then
    for i = 1, 4 do
      local _, value = debug.getupvalue(methods, i)
      if type(value) == "table" then methods = value break end
    end
  end
  if type(methods) ~= "table" then error("no methods found for " .. prefix) end
  for _, key in ipairs(sorted_keys(methods)) do
    if not key:find "^__" then add_function(prefix .. ":" .. key, methods[key], "method") end
  end
end

local function read_tools()
  for _, path in ipairs(files "ls lib/hd/tool/*.lua 2>/dev/null") do
    local name = path:match "([%w_]+)%.lua$"
    local call = "hdlua -m " .. name
    add { name = call, kind = "tool", signature = call, text = module_text("hd.tool." .. name), notes = {} }
  end
end

-- Outputs ---------------------------------------------------------------------------------------------------------

local HEAD = "generated by scripts/gen_docs.lua (make docs): change the doc comments instead"

-- The module, class or type that an entry belongs to.
local function owner(name)
  return name:match "^(.*)[.:][%w_]+$" or name
end

local function reference()
  local out = { "<!-- " .. HEAD .. " -->", "# Reference", "" }
  local function line(text) out[#out + 1] = text end
  line "Every public function, by module. In a terminal: `hdlua --doc NAME`; in the REPL: `help(\"NAME\")`."
  line "`x` stands for a tensor, `rng` for a generator; `argument?` may be left out."
  for _, e in ipairs(entries) do
    local heading = (e.kind == "module" or e.kind == "tool") and "## " or e.kind == "class" and "### " or "#### "
    line ""
    line(heading .. "`" .. e.signature .. "`")
    if e.text ~= "" then line "" line(e.text) end
    if e.params or e.returns then line "" end
    for _, p in ipairs(e.params or {}) do
      line(("- `%s` *%s*%s"):format(p[1], p[2]:gsub("|", "\\|"), p[3] ~= "" and ": " .. p[3] or ""))
    end
    for _, r in ipairs(e.returns or {}) do
      local name, text = r[1] ~= "" and "`" .. r[1] .. "` " or "", r[3] ~= "" and ": " .. r[3] or ""
      line(("- returns %s*%s*%s"):format(name, r[2], text))
    end
  end
  return table.concat(out, "\n") .. "\n"
end

-- Arguments of a C signature as names that a stub may have.
local function stub_arguments(signature)
  local inside = signature:match "%((.*)%)" or ""
  inside = inside:gsub("%b()", ""):gsub("%b{}", "opts?"):gsub("%.%.%..*$", "..."):gsub("…", "...")
  local names, seen_names = {}, {}
  for token in inside:gmatch "[^,]+" do
    local name = token:find("...", 1, true) and "..." or token:match "[%a_][%w_]*"
    if name == "end" or name == "function" or name == "in" then name = name .. "_" end
    if name and not seen_names[name] and names[#names] ~= "..." then
      names[#names + 1], seen_names[name] = name, true
    end
  end
  return names
end

local STUB_TYPES = {
  tensor = "hd.Tensor", x = "hd.Tensor", generator = "hd.Generator", number = "number", integer = "integer",
  boolean = "boolean", string = "string", table = "table",
}

-- The line `function name(arguments) end` and what stands above it.
local function stub(e, name)
  local out = {}
  for text in e.text:gmatch "[^\n]+" do out[#out + 1] = "--- " .. text end
  for _, note in ipairs(e.notes) do
    if not note:find "^@class" and not note:find "^@field" then out[#out + 1] = "---" .. note end
  end
  local names = {}
  if #e.notes == 0 and e.signature:find("(", 1, true) then
    names = stub_arguments(e.signature:gsub("%s*%->.*$", ""))
    for _, argument in ipairs(names) do
      out[#out + 1] = ("---@param %s any"):format(argument == "..." and "..." or argument .. "?")
    end
    local result = e.signature:match "%->%s*([%w_]+)"
    if result then out[#out + 1] = "---@return " .. (STUB_TYPES[result] or "any") .. " " .. result end
  else
    for argument in (e.signature:match "%((.*)%)" or ""):gmatch "[^,%s?]+" do names[#names + 1] = argument end
  end
  out[#out + 1] = ("function %s(%s) end"):format(name, table.concat(names, ", "))
  return table.concat(out, "\n")
end

-- The public name of a class object, for `---@class A: B`.
local function class_name(cls)
  for _, e in ipairs(entries) do
    if e.kind == "class" and e.value == cls then return e.name end
  end
end

local function class_stub(e)
  local out = {}
  for text in e.text:gmatch "[^\n]+" do out[#out + 1] = "--- " .. text end
  local base = e.base and class_name(e.base)
  out[#out + 1] = "---@class " .. e.name .. (base and ": " .. base or "")
  for _, note in ipairs(e.class_notes) do
    if note:find "^@field" then out[#out + 1] = "---" .. note end
  end
  local arguments = {}
  for _, p in ipairs(e.params or {}) do arguments[#arguments + 1] = p[1] .. ": " .. p[2] end
  out[#out + 1] = ("---@overload fun(%s): %s"):format(table.concat(arguments, ", "), e.name)
  out[#out + 1] = e.name .. " = {}"
  return table.concat(out, "\n")
end

-- Types that only annotations name: `---@class` and `---@alias` blocks of lib/ that no public class stands below.
local function free_types()
  local out = {}
  for _, path in ipairs(files "find lib/hd -name '*.lua'") do
    local block
    for _, line in ipairs(source(path)) do
      if line:find "^%-%-%-@class" or line:find "^%-%-%-@alias" then
        local name = line:match "^%-%-%-@%l+%s+([%w_.]+)"
        block = not by_name[name] and name ~= "hd.Tensor" and {} or nil
      elseif not line:find "^%-%-%-" then
        if block then out[#out + 1] = table.concat(block, "\n") end
        block = nil
      end
      if block then block[#block + 1] = line end
    end
  end
  return out
end

local function stubs()
  local out = { "---@meta hd", "-- " .. HEAD }
  out[3] = "---@class hd.Tensor\nlocal x = {}\n---@class hd.Generator\nlocal rng = {}"
  for _, block in ipairs(free_types()) do out[#out + 1] = "\n" .. block end
  for _, e in ipairs(entries) do
    if e.kind == "module" then
      out[#out + 1] = ("\n---@class %s\n%s%s = {}"):format(e.name, e.name == "hd" and "local " or "", e.name)
    elseif e.kind == "class" then
      out[#out + 1] = "\n" .. class_stub(e)
    elseif e.kind ~= "tool" then
      out[#out + 1] = "\n" .. stub(e, e.name)
    end
  end
  out[#out + 1] = "\nreturn hd"
  return table.concat(out, "\n") .. "\n"
end

local function quote(text) return (("%q"):format(text):gsub("\\\n", "\\n")) end

local function quote_lists(list)
  if not list then return "nil" end
  local items = {}
  for i, item in ipairs(list) do
    items[i] = ("{ %s, %s, %s }"):format(quote(item[1]), quote(item[2]), quote(item[3]))
  end
  return "{ " .. table.concat(items, ", ") .. " }"
end

-- The last parts of the names directly below a module or class.
local function members(e)
  local list = {}
  for _, other in ipairs(entries) do
    if other ~= e and owner(other.name) == e.name then list[#list + 1] = quote(other.name:match "[%w_]+$") end
  end
  return #list > 0 and "{ " .. table.concat(list, ", ") .. " }" or "nil"
end

local function doc_data()
  local out = { "-- " .. HEAD, "local entries = {" }
  for _, e in ipairs(entries) do
    out[#out + 1] = ("  { name = %s, kind = %s, signature = %s, text = %s,"):format(
      quote(e.name), quote(e.kind), quote(e.signature), quote(e.text))
    out[#out + 1] = ("    params = %s, returns = %s, members = %s },"):format(
      quote_lists(e.params), quote_lists(e.returns), members(e))
  end
  out[#out + 1] = "}\nlocal index = {}\nfor i, entry in ipairs(entries) do index[entry.name] = i end"
  out[#out + 1] = "return { entries = entries, index = index }"
  return table.concat(out, "\n") .. "\n"
end

-- Run -------------------------------------------------------------------------------------------------------------

local function read_file(path)
  local file = io.open(path, "rb")
  if not file then return nil end
  local text = file:read "a"
  file:close()
  return text
end

local function write_file(path, text)
  local file = assert(io.open(path, "wb"))
  file:write(text)
  assert(file:close())
end

for _, name in ipairs(module_names()) do follow(name) end -- loads what is loaded on demand
for _, name in ipairs(getmetatable(hd).__names) do hd[name] = hd[name] end
walk("hd", hd)
walk_methods("x", getmetatable(hd.zeros(1)))
walk_methods("rng", getmetatable(hd.rng(0)))
read_tools()

local function absolute(path)
  return path:find "^/" and path or files "pwd"[1] .. "/" .. path
end

local outputs = {
  { "docs/reference.md", reference() }, { "lib/meta/hd.d.lua", stubs() }, { "lib/hd/doc_data.lua", doc_data() },
  { "docs/mistakes.md", dofile "scripts/mistakes.lua" (absolute(arg[-1])) },
}
local failed = false
for _, name in ipairs(undocumented) do
  failed = true
  io.stderr:write("no doc comment: ", name, "\n")
end
for _, output in ipairs(outputs) do
  if arg[1] ~= "--check" then
    write_file(output[1], output[2])
  elseif read_file(output[1]) ~= output[2] then
    failed = true
    io.stderr:write("stale: ", output[1], ": run `make docs`\n")
  end
end
os.exit(not failed)
