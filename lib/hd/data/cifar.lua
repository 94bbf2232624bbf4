-- hd/data/cifar.lua: CIFAR-10 from its binary files. Calls: core, hd.check, hd.data.set.

local core = require "hd.core"
local check = require "hd.check"
local Set = require "hd.data.set"

local CLASSES = { "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck" }

local function paths_of(dir, part)
  if part == "test" then return { dir .. "/test_batch.bin" } end
  local paths = {}
  for i = 1, 5 do
    local path = ("%s/data_batch_%d.bin"):format(dir, i)
    if core.path_kind(path) then paths[#paths + 1] = path end
  end
  return paths
end

--- CIFAR-10: pictures u8 [n, 3, 32, 32] with labels 1 to 10.
---@param dir string  the folder with data_batch_1.bin to data_batch_5.bin (those that are there) and test_batch.bin
---@param opts? {part?: string}  "train" (the default) or "test"
---@return hd.data.Set? set  nil and a message where files are missing, cut short or something else
---@return string? message
local function cifar10(dir, opts)
  check.arg("data.cifar10", "dir", dir, "string")
  local o = check.options("data.cifar10", opts, { { "part", { "train", "test" }, "train" } })
  local paths = paths_of(dir, o.part)
  if #paths == 0 then
    local text = "data.cifar10: no data_batch_*.bin in '%s'\n  hint: it expects the binary version of CIFAR-10"
    return nil, text:format(dir)
  end
  local x, labels = core.cifar_load(paths)
  if not x then return nil, "data.cifar10: " .. labels end
  return Set(x, labels, { name = "cifar10 " .. o.part, classes = CLASSES })
end

return cifar10
