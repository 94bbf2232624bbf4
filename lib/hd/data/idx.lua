-- hd/data/idx.lua: sets in the IDX format of MNIST. Calls: core, hd.check, hd.data.set.

local core = require "hd.core"
local check = require "hd.check"
local Set = require "hd.data.set"

-- [n,h,w] is grey; [n,c,h,w] is as it is.
local function as_pictures(x)
  if x:dim() == 3 then return x:unsqueeze(2) end
  return x:dim() == 4 and x or nil
end

--- MNIST and its kin: IDX files of unsigned bytes, plain or packed by gzip.
---@param images string  path of the pictures, [n, height, width] or [n, channels, height, width]
---@param labels? string  path of the labels, [n]; 0 in the file becomes 1
---@return hd.data.Set? set  nil and a message where a file cannot be read
---@return string? message
local function idx(images, labels)
  check.arg("data.idx", "images", images, "string")
  check.arg("data.idx", "labels", labels, "string|nil")
  local raw, message = core.idx_load(images)
  local x = raw and as_pictures(raw)
  if not x or x:size(1) == 0 then
    local shape = raw and ("'%s' holds no pictures: got [%s]"):format(images, table.concat(raw:shape(), ","))
    return nil, "data.idx: " .. (shape or message)
  end
  if not labels then return Set(x, nil, { name = "idx" }) end
  local y
  y, message = core.idx_load(labels)
  if not y then return nil, "data.idx: " .. message end
  if y:dim() ~= 1 or y:size(1) ~= x:size(1) then
    return nil, ("data.idx: labels do not fit: got [%s] in '%s', expected [%d]"):format(
      table.concat(y:shape(), ","), labels, x:size(1))
  end
  return Set(x, core.labels(y), { name = "idx" })
end

return idx
