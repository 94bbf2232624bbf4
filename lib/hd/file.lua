-- hd/file.lua: hd.load and hd.save, by the extension of the path. Calls: core, hd.check. Called by: hd.lua.
-- Types that tensors do not have are widened: f16 and bf16 become f32; i8, i16 and u16 i32; u32 and u64 i64.

local core = require "hd.core"
local check = require "hd.check"

local file = {}

local KNOWN = ".npy, .npz, .safetensors"

-- "run/model.safetensors.prev" (the kept earlier version) is read like "run/model.safetensors".
local function extension(path)
  return path:gsub("%.prev$", ""):lower():match "%.([%w]+)$" or ""
end

local function sorted_keys(map)
  local keys = {}
  for key in next, map do keys[#keys + 1] = key end -- order free: sorted below
  table.sort(keys)
  return keys
end

-- "'PATH' holds 4 values that are not finite: a (3), b (1)", with no more than eight names; nil where all are finite.
local function odd_text(path, names, odd)
  local parts, sum = {}, 0
  for _, name in ipairs(names) do
    if odd[name] then
      sum = sum + odd[name]
      parts[#parts + 1] = ("%s (%d)"):format(name, odd[name])
    end
  end
  if sum == 0 then return nil end
  local shown = table.concat(parts, ", ", 1, math.min(#parts, 8))
  return ("'%s' holds %d values that are not finite: %s%s"):format(path, sum, shown, #parts > 8 and ", …" or "")
end

local loaders = {}

function loaders.npy(path) return core.npy_load(path) end

function loaders.npz(path) return core.npz_load(path) end

function loaders.safetensors(path)
  local tensors, texts, names, odd = core.safetensors_load(path)
  if not tensors then return nil, texts end
  local text = odd_text(path, names, odd)
  if text then io.stderr:write("hd.load: ", text, "\n") end
  return tensors, texts
end

--- Read a .safetensors file of hdlua's own: without its checksum it is damaged.
---@param path string
---@return table<string, hd.Tensor>? tensors  nil and a message where the file cannot be read
---@return table<string, string>|string metadata
---@return string? odd  what is to be said of values that are not finite
function file.read_checked(path)
  local tensors, texts, names, odd = core.safetensors_load(path)
  if not tensors then return nil, texts end
  if not texts["hdlua.checksum"] then return nil, ("'%s' is damaged: its checksum is missing"):format(path) end
  return tensors, texts, odd_text(path, names, odd)
end

-- Names and tensors of a table, sorted by name; misuse raises.
local function check_map(map, kind)
  if type(map) ~= "table" then
    check.fail("save", "a .%s file takes a table of name = tensor: got %s", kind, check.show(map))
  end
  for key, value in next, map do -- order free: any fault will do
    if type(key) ~= "string" or not check.is_tensor(value) then
      local got = tostring(key) .. " = " .. check.show(value)
      check.fail("save", "a .%s file takes a table of name = tensor: got %s", kind, got)
    end
  end
  local names, tensors = sorted_keys(map), {}
  for i, name in ipairs(names) do tensors[i] = map[name] end
  return names, tensors
end

local savers = {}

function savers.npy(path, x)
  return core.npy_save(path, check.arg("save", "x", x, "tensor"))
end

function savers.npz(path, map)
  return core.npz_save(path, check_map(map, "npz"))
end

function savers.safetensors(path, map, o)
  local names, tensors = check_map(map, "safetensors")
  for key in next, o.metadata do check.arg("save", "key of metadata", key, "string") end -- order free: any fault
  local keys, texts = sorted_keys(o.metadata), {}
  for i, key in ipairs(keys) do
    texts[i] = check.arg("save", "metadata." .. tostring(key), o.metadata[key], "string")
  end
  return core.safetensors_save(path, names, tensors, keys, texts, o.keep_previous)
end

--- Read a file of tensors by its extension.
--- .npy gives a tensor; .npz and .safetensors a table name = tensor. Everything in the file is checked before it is
--- believed; nothing in it is ever run.
---@param path string
---@return hd.Tensor|table<string, hd.Tensor>? data  nil and a message where the file cannot be read
---@return table<string, string>|string? metadata  of a .safetensors file
function file.load(path)
  check.arg("load", "path", path, "string")
  local loader = loaders[extension(path)]
  if not loader then return nil, ("load: '%s' has an unknown extension. known: %s"):format(path, KNOWN) end
  local data, extra = loader(path)
  if data == nil then return nil, "load: " .. extra end
  if extra == nil then return data end
  return data, extra
end

--- Write a file of tensors by its extension, whole or not at all: a crash or a full disk leaves the earlier file.
--- A .safetensors file is read back before it takes its place. It carries a checksum of all its bytes as
--- "hdlua.checksum" in its metadata, which hd.load compares: a program that changes the file must drop it.
---@param path string  .npy (a tensor), .npz or .safetensors (a table name = tensor)
---@param data hd.Tensor|table<string, hd.Tensor>
---@param opts? table  of .safetensors: metadata: texts to store with it, {key = string}; keep_previous: the file that
---  was there stays as `path.prev`
---@return boolean? done  true, or nil and a message
---@return string? message
function file.save(path, data, opts)
  check.arg("save", "path", path, "string")
  local kind = extension(path)
  local saver = savers[kind]
  if not saver then check.fail("save", "'%s' has an unknown extension. known: %s", path, KNOWN) end
  local spec = kind == "safetensors" and { { "metadata", "table", {} }, { "keep_previous", "boolean", false } } or {}
  local done, message = saver(path, data, check.options("save", opts, spec))
  if not done then return nil, message end
  return true
end

return file
