-- hd/args.lua: `hd.args`, the options of a script: a table of defaults in, a table of values out.
-- Calls: hd.core. Called by: examples, tools, users' scripts.

local check = require "hd.check"
local core = require "hd.core"

local args = {}

-- An option without default is declared by its type.
local TYPES = { number = {}, integer = {}, string = {} }
args.number, args.integer, args.string = TYPES.number, TYPES.integer, TYPES.string

-- Options that every script has: name, type, text, choices.
local COMMON = {
  { "seed", "integer", "seed of the default random generator" },
  { "threads", "integer", "compute on so many threads" },
  { "view", "choice", "where pictures are shown", { "auto", "window", "png", "term", "off" } },
  { "help", "flag", "print this and end" },
}

local function type_of(name, default)
  for kind, marker in next, TYPES do -- order free: at most one is equal
    if default == marker then return kind, nil end
  end
  if type(default) == "boolean" then return "flag", default end
  if type(default) == "number" then return math.type(default) == "integer" and "integer" or "number", default end
  if type(default) == "string" then return "string", default end
  if type(default) == "table" and type(default[1]) == "string" then
    check.list("args", name, default, "string")
    return "choice", default[1], default
  end
  return check.fail("args", "option '%s' has the wrong type: got %s, expected a default or a type (hd.args.number)",
    name, check.show(default))
end

-- The script's options by name in sorted order, then the common ones that it does not declare itself.
local function declare(spec, texts)
  local list, by_name = {}, {}
  for name, default in next, spec do -- order free: sorted below
    check.arg("args", "name of an option", name, "string")
    local kind, value, choices = type_of(name, default)
    list[#list + 1] = { name = name, kind = kind, default = value, choices = choices, text = texts[name] or "" }
  end
  table.sort(list, function(a, b) return a.name < b.name end)
  for _, o in ipairs(list) do by_name[o.name] = o end
  for _, common in ipairs(COMMON) do
    local o = { name = common[1], kind = common[2], text = common[3], choices = common[4], common = true }
    if by_name[o.name] then
      if by_name[o.name].text == "" then by_name[o.name].text = o.text end
    else
      list[#list + 1], by_name[o.name] = o, o
    end
  end
  return list, by_name
end

local function shown(name) return "--" .. name:gsub("_", "-") end

local function names_of(list)
  local names = {}
  for i, o in ipairs(list) do names[i] = shown(o.name) end
  return names
end

-- Text to value by the option's type; nil and a message where it does not fit.
local function convert(o, text)
  if o.kind == "string" then return text end
  if o.kind == "flag" then
    if text == "true" or text == "false" then return text == "true" end
    return nil, ("%s is a flag: got '%s', expected true or false"):format(shown(o.name), text)
  end
  if o.kind == "choice" then
    for _, choice in ipairs(o.choices) do
      if text == choice then return text end
    end
    return nil, ("%s has the wrong value: got '%s'. %s"):format(shown(o.name), text, check.suggestion(text, o.choices))
  end
  local value = tonumber(text)
  if o.kind == "integer" then value = math.tointeger(value) elseif value then value = value + 0.0 end
  if value then return value end
  local expected = o.kind == "integer" and "an integer" or "a number"
  return nil, ("%s has the wrong value: got '%s', expected %s"):format(shown(o.name), text, expected)
end

-- "--save-every" or "--no-flip" to the option and whether it is the negative form.
local function find_option(by_name, word)
  local name = word:gsub("-", "_")
  if by_name[name] then return by_name[name], false end
  local positive = name:match "^no_(.+)$"
  if positive and by_name[positive] and by_name[positive].kind == "flag" then return by_name[positive], true end
end

-- One option at position i of words; returns the position after it, or nil and a message.
local function read_option(words, i, list, by_name, values)
  local word, text = words[i]:match "^%-%-([^=]+)=?(.*)$"
  local has_text = words[i]:find("=", 1, true) ~= nil
  local o, negative = find_option(by_name, word or "")
  if not o then
    return nil, ("unknown option '%s'. %s"):format(words[i]:match "^[^=]*", check.suggestion(words[i]:match "^[^=]*",
      names_of(list)))
  end
  if o.kind == "flag" and not has_text then
    values[o.name] = not negative
    return i + 1
  end
  if not has_text then
    i = i + 1
    text = words[i]
    if not text then return nil, shown(o.name) .. " needs a value" end
  end
  local value, message = convert(o, text)
  if value == nil then return nil, message end
  values[o.name] = value
  return i + 1
end

--- Read a list of words by a table of defaults, without touching anything else.
---@param spec table       name -> default, a list of words to choose from, or hd.args.number, .integer, .string
---@param words string[]   as the global `arg`
---@param before? table    values of seed, threads and view that go before the defaults
---@return table? values   nil where a word is wrong
---@return string? message
function args.parse(spec, words, before)
  check.arg("args.parse", "spec", spec, "table")
  check.list("args.parse", "words", words, "string")
  check.arg("args.parse", "before", before, "table|nil")
  local list, by_name = declare(spec, {})
  local values, i = {}, 1
  for _, o in ipairs(list) do values[o.name] = o.default end
  for _, common in ipairs(COMMON) do
    local value = before and before[common[1]]
    if value ~= nil then values[common[1]] = value end
  end
  while i and i <= #words do
    if words[i]:sub(1, 2) ~= "--" then return nil, ("unexpected argument '%s'"):format(words[i]) end
    local message
    i, message = read_option(words, i, list, by_name, values)
    if not i then return nil, message end
  end
  return values
end

local function help_text(program, spec, texts)
  local lines = { ("usage: hdlua %s [options]"):format(program) }
  if texts[1] then lines[#lines + 1] = texts[1] end
  for _, o in ipairs((declare(spec, texts))) do
    local value = o.kind ~= "flag" and " " .. (o.choices and table.concat(o.choices, "|") or o.kind:upper()) or ""
    local default = o.default ~= nil and o.kind ~= "flag" and ("(%s)"):format(o.default) or ""
    lines[#lines + 1] = ("  %-32s %s%s"):format(shown(o.name) .. value, o.text,
      (o.text ~= "" and default ~= "") and " " .. default or default)
  end
  return table.concat(lines, "\n")
end

local function apply_common(values)
  values.seed, values.view = values.seed or 0, values.view or "auto"
  core.seed(values.seed)
  if math.type(values.threads) then core.threads(values.threads) end
  if core.options then core.options.view = values.view end
end

local function finish(code, stream, text)
  stream:write(text, "\n")
  os.exit(code, true)
end

-- What is wrong with the number of threads, as for --threads before the script. A script that declares the option as
-- a text reads it itself.
local function wrong_threads(n)
  local is_wrong = math.type(n) and (n < 1 or n > 256)
  return is_wrong and ("--threads has the wrong value: got %d, expected 1 to 256"):format(n) or nil
end

-- hd.args { steps = 1000, lr = 1e-3, resume = false, minutes = hd.args.number }
local function read(spec, texts)
  check.arg("args", "defaults", spec, "table")
  check.arg("args", "texts", texts, "table|nil")
  local words = _G.arg or {}
  local tool = words[-1] == "-m" and (words[0] or ""):match "([%w_]+)%.lua$"
  local program = tool and "-m " .. tool or words[0] or "script.lua"
  local values, message = args.parse(spec, words, core.options) -- the words before the script are hdlua's
  if values then message = wrong_threads(values.threads) end
  if message then return finish(2, io.stderr, ("%s: %s"):format(program, message)) end
  if values.help then return finish(0, io.stdout, help_text(program, spec, texts or {})) end
  values.help = nil
  apply_common(values)
  return values
end

--- Read the script's options: `local args = hd.args { steps = 1000, lr = 1e-3, resume = false }`.
--- The default gives the type; false is a flag; `minutes = hd.args.number` has no default; `regime = { "cascade",
--- "flat" }` takes one of these words, the first unless told otherwise. `--save-every 5`,
--- `--save-every=5` and `--no-flip` are understood; `--help` lists the options. `--seed` (0), `--threads` and `--view`
--- work in every script and are applied at once. A wrong word ends the program with code 2 and the nearest option.
---@class hd.Args
return setmetatable(args, { __call = function(_, spec, texts) return read(spec, texts) end })
