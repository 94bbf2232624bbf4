-- hd/run/checkpoint.lua: everything that a run needs to go on, in one safetensors file, so that its parts cannot mix.
-- Calls: core, hd.check, hd.file. Called by: hd.run.
-- A state is a tree: objects with state_dict()/load_state_dict(), generators, tensors, numbers, strings, booleans and
-- tables of them. In the file a leaf is named by its path, "opt/state.0.step"; numbers are tensors without dimensions
-- (integers i64, others f64), strings and booleans lie in the metadata as JSON.

local core = require "hd.core"
local check = require "hd.check"
local file = require "hd.file"

local checkpoint = {}

local FORMAT = "hdlua checkpoint 1"

local function is_object(value) return type(value) == "table" and value.state_dict ~= nil end

local function is_generator(value)
  return type(value) == "userdata" and not check.is_tensor(value) and value.set_state ~= nil
end

local function sorted_keys(t)
  local keys = {}
  for key in next, t do keys[#keys + 1] = key end -- order free: sorted below
  table.sort(keys, function(a, b)
    if type(a) == type(b) then return a < b end
    return type(a) == "number"
  end)
  return keys
end

-- The path of a key below another: integers as "[3]", so that they come back as integers.
local function below(path, key)
  local name = math.type(key) == "integer" and ("[%d]"):format(key) or key
  if type(name) ~= "string" or name:find("/", 1, true) or (name == key and name:find "^%[%d+%]$") then
    check.fail("run.save", "a name in the state is wrong: got %s below '%s', expected a string without '/'",
      check.show(key), path)
  end
  return path == "" and name or path .. "/" .. name
end

local function put_number(out, path, value)
  out.tensors[path] = core.tensor(value, { dtype = math.type(value) == "integer" and "i64" or "f64" })
  out.numbers[#out.numbers + 1] = path
end

local function put(out, path, value)
  if is_object(value) then value = value:state_dict() end
  if is_generator(value) then value = value:state() end
  if check.is_tensor(value) then
    out.tensors[path] = value:detach()
  elseif type(value) == "number" then
    put_number(out, path, value)
  elseif type(value) == "string" or type(value) == "boolean" then
    out.texts[path] = value
  elseif type(value) == "table" then
    for _, key in ipairs(sorted_keys(value)) do put(out, below(path, key), value[key]) end
  else
    check.fail("run.save", "'%s' cannot be saved: got %s, expected an object with state_dict, a tensor or a table",
      path, check.show(value))
  end
end

--- Take a state apart: tensors (which share memory with it), the paths of numbers, texts by path.
---@param state table
---@return { tensors: table<string, hd.Tensor>, numbers: string[], texts: table<string, string|boolean> }
function checkpoint.pack(state)
  local out = { tensors = {}, numbers = {}, texts = {} }
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
    name = math.tointeger(part:match "^%[(%d+)%]$") or part
  end
  node[name] = value
end

--- Put a state together again: plain tables, tensors, numbers and texts.
---@param parts table  as from checkpoint.pack
---@return table tree
function checkpoint.unpack(parts)
  local tree, is_number = {}, {}
  for _, path in ipairs(parts.numbers) do is_number[path] = true end
  for path, x in next, parts.tensors do -- order free: separate paths
    insert(tree, path, is_number[path] and x:item() or x)
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
    checkpoint.restore(current, saved or {})
  else
    return saved
  end
  return current
end

--- Put a saved tree back into the objects, tensors and tables of a state.
---@param state table
---@param tree table  as from checkpoint.unpack
function checkpoint.restore(state, tree)
  local _ <close> = core.no_grad()
  for _, key in ipairs(sorted_keys(state)) do state[key] = restored(key, state[key], tree[key]) end
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
  local metadata = { format = FORMAT, numbers = core.json_encode(parts.numbers), texts = core.json_encode(parts.texts) }
  for key, text in next, texts do metadata[key] = text end -- order free: separate keys
  return file.save(path, parts.tensors, { metadata = metadata, keep_previous = true })
end

local function read(path)
  local tensors, metadata = file.load(path)
  if not tensors then return nil, metadata end
  if metadata.format ~= FORMAT then
    return nil, ("'%s' is no checkpoint of this version: its format is '%s', expected '%s'"):format(path,
      metadata.format or "none", FORMAT)
  end
  local parts = {
    tensors = tensors, numbers = core.json_decode(metadata.numbers), texts = core.json_decode(metadata.texts),
  }
  return { tree = checkpoint.unpack(parts), texts = metadata }
end

--- Read a checkpoint, or the one before it where the newest cannot be read.
---@param path string
---@return { tree: table, texts: table<string, string> }? found  nil where there is none
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
