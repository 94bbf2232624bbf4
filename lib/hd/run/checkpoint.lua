-- hd/run/checkpoint.lua: everything that a run needs to go on, in one safetensors file, so that its parts cannot mix.
-- Calls: core, hd.check, hd.file. Called by: hd.run.
-- A state is a tree: objects with state_dict()/load_state_dict(), generators, tensors, numbers, strings, booleans and
-- tables of them. In the file a leaf is named by its path, "opt/state.0.step"; numbers are tensors without dimensions
-- (integers i64, others f64), lists of numbers of one kind tensors of one dimension, strings and booleans lie in the
-- metadata as JSON.

local core = require "hd.core"
local check = require "hd.check"
local file = require "hd.file"

local checkpoint = {}

local FORMAT = "hdlua checkpoint 2"

local function is_object(value) return type(value) == "table" and value.state_dict ~= nil end

local function is_generator(value)
  return type(value) == "userdata" and not check.is_tensor(value) and value.set_state ~= nil
end

local function is_key(key) return math.type(key) == "integer" or (type(key) == "string" and key ~= "") end

local function sorted_keys(t)
  local keys = {}
  for key in next, t do -- order free: sorted below
    if not is_key(key) then
      check.fail("run.save", "a name in the state is wrong: got %s, expected a string or an integer", check.show(key))
    end
    keys[#keys + 1] = key
  end
  table.sort(keys, function(a, b)
    if type(a) == type(b) then return a < b end
    return type(a) == "number"
  end)
  return keys
end

-- The path of a key below another: integers as "[3]", so that they come back as integers.
local function below(path, key)
  local name = math.type(key) == "integer" and ("[%d]"):format(key) or key
  if name:find("/", 1, true) or (name == key and name:find "^%[%-?%d+%]$") then
    check.fail("run.save", "a name in the state is wrong: got %s below '%s', expected a string without '/' and '[1]'",
      check.show(key), path)
  end
  return path == "" and name or path .. "/" .. name
end

local function put_number(out, path, value)
  out.tensors[path] = core.tensor(value, { dtype = math.type(value) == "integer" and "i64" or "f64" })
  out.numbers[#out.numbers + 1] = path
end

-- "i64" or "f64" where a table is a list of integers or of other numbers.
local function list_type(t)
  local kind, n, count = math.type(t[1]), #t, 0
  for key, value in next, t do -- order free: all are looked at
    if math.type(key) ~= "integer" or key < 1 or key > n or math.type(value) ~= kind then return nil end
    count = count + 1
  end
  return kind and count == n and (kind == "integer" and "i64" or "f64") or nil
end

local function put_table(out, path, value, put)
  local dtype = list_type(value)
  if not dtype then
    for _, key in ipairs(sorted_keys(value)) do put(out, below(path, key), value[key]) end
    return
  end
  out.tensors[path] = core.tensor(value, { dtype = dtype })
  out.lists[#out.lists + 1] = path
end

local function put_text(out, path, value)
  if type(value) == "string" and (not utf8.len(value) or value:find("\0", 1, true)) then
    check.fail("run.save", "'%s' cannot be saved: got a string that is no text in UTF-8", path)
  end
  out.texts[path] = value
end

local function put(out, path, value)
  if is_object(value) then value = value:state_dict() end
  if is_generator(value) then value = value:state() end
  if check.is_tensor(value) then
    out.tensors[path] = value:detach()
  elseif type(value) == "number" then
    put_number(out, path, value)
  elseif type(value) == "string" or type(value) == "boolean" then
    put_text(out, path, value)
  elseif type(value) == "table" then
    put_table(out, path, value, put)
  else
    check.fail("run.save", "'%s' cannot be saved: got %s, expected an object with state_dict, a tensor or a table",
      path, check.show(value))
  end
end

--- Take a state apart: tensors (which share memory with it), the paths of those that are numbers and lists of numbers,
--- texts by path.
---@param state table
---@return { tensors: table<string, hd.Tensor>, numbers: string[], lists: string[], texts: table }
function checkpoint.pack(state)
  local out = { tensors = {}, numbers = {}, lists = {}, texts = {} }
  put(out, "", state)
  return out
end

local function insert(tree, path, value)
  local node, name = tree, nil
  for part in path:gmatch "[^/]+" do
    if name ~= nil then
      node[name] = node[name] or {}
      node = node[name]
    end
    name = math.tointeger(part:match "^%[(%-?%d+)%]$") or part
  end
  node[name] = value
end

--- Put a state together again: plain tables, tensors, numbers and texts.
---@param parts table  as from checkpoint.pack
---@return table tree
function checkpoint.unpack(parts)
  local tree, plain = {}, {}
  for _, path in ipairs(parts.numbers) do plain[path] = "item" end
  for _, path in ipairs(parts.lists) do plain[path] = "totable" end
  for path, x in next, parts.tensors do -- order free: separate paths
    insert(tree, path, plain[path] and x[plain[path]](x) or x)
  end
  for path, text in next, parts.texts do insert(tree, path, text) end -- order free: separate paths
  return tree
end

local function copy(name, to, from)
  if not check.is_tensor(from) or table.concat(to:shape(), ",") ~= table.concat(from:shape(), ",") then
    check.fail("checkpoint", "'%s' is %s, expected %s", name, check.show(from), check.show(to))
  end
  to:copy_(from)
end

local restore_table

-- Give one entry of the state its saved form; returns what to put in its place.
local function restored(name, current, saved)
  if is_object(current) then
    if saved == nil and next(current:state_dict()) ~= nil then check.fail("checkpoint", "'%s' is missing", name) end
    current:load_state_dict(saved or {})
  elseif is_generator(current) then
    current:set_state(saved or check.fail("checkpoint", "'%s' is missing", name))
  elseif check.is_tensor(current) then
    copy(name, current, saved)
  elseif type(current) == "table" then
    restore_table(current, check.arg("checkpoint", ("'%s'"):format(name), saved or {}, "table"))
  else
    return saved
  end
  return current
end

-- Tables become what they were: entries that came since are gone, those that went are there again.
function restore_table(state, tree)
  for _, key in ipairs(sorted_keys(state)) do state[key] = restored(key, state[key], tree[key]) end
  for key, saved in next, tree do -- order free: separate keys
    if state[key] == nil then state[key] = saved end
  end
end

--- Put a saved tree back into the objects, tensors and tables of a state. Both have the same entries.
---@param state table
---@param tree table  as from checkpoint.unpack
function checkpoint.restore(state, tree)
  local _ <close> = core.no_grad()
  for _, key in ipairs(sorted_keys(tree)) do
    if state[key] == nil then check.fail("checkpoint", "it holds '%s', which is not in the state", key) end
  end
  for _, key in ipairs(sorted_keys(state)) do
    if tree[key] == nil and type(state[key]) ~= "table" then check.fail("checkpoint", "'%s' is missing", key) end
  end
  restore_table(state, tree)
end

--- A copy of a state that later changes do not reach.
---@param state table
---@return table tree  as checkpoint.restore takes it
function checkpoint.snapshot(state)
  local _ <close> = core.no_grad()
  local parts = checkpoint.pack(state)
  for path, x in next, parts.tensors do parts.tensors[path] = x:clone() end -- order free: separate paths
  return checkpoint.unpack(parts)
end

--- Write a checkpoint, whole or not at all; the one before stays as `path.prev`.
---@param path string
---@param state table                   the tree to save
---@param texts table<string, string>   more metadata
---@return boolean? done  true, or nil and a message
---@return string? message
function checkpoint.save(path, state, texts)
  local parts = checkpoint.pack(state)
  local metadata = { format = FORMAT }
  for _, key in ipairs { "numbers", "lists", "texts" } do metadata[key] = core.json_encode(parts[key]) end
  for key, text in next, texts do metadata[key] = text end -- order free: separate keys
  return file.save(path, parts.tensors, { metadata = metadata, keep_previous = true })
end

local function read(path)
  local tensors, metadata, odd = file.read_checked(path)
  if not tensors then return nil, metadata end
  if metadata.format ~= FORMAT then
    return nil, ("'%s' is no checkpoint of this version: its format is '%s', expected '%s'"):format(path,
      metadata.format or "none", FORMAT)
  end
  local parts = { tensors = tensors }
  for _, key in ipairs { "numbers", "lists", "texts" } do parts[key] = core.json_decode(metadata[key]) end
  return { tree = checkpoint.unpack(parts), texts = metadata, odd = odd }
end

--- Read a checkpoint, or the one before it where the newest cannot be read.
---@param path string
---@return { tree: table, texts: table<string, string>, odd: string? }? found  nil where there is none; odd tells of
---  values that are not finite
---@return string? message  what is wrong with the newest (then `found` is the one before), or with both
function checkpoint.load(path)
  local previous = path .. ".prev"
  local newest, message
  if core.path_kind(path) then
    newest, message = read(path)
    if newest then return newest end
  end
  if not core.path_kind(previous) then return nil, message end
  local older, reason = read(previous)
  if not older then return nil, message or reason end
  return older, message or ("'%s' is missing"):format(path)
end

return checkpoint
