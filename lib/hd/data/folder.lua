-- hd/data/folder.lua: a folder of PNG and JPEG files as a set. Calls: core, hd.check, hd.data.set.

local core = require "hd.core"
local check = require "hd.check"
local Set = require "hd.data.set"
local report = require "hd.data.skipped"

local function is_picture(name)
  local ending = name:lower():match "%.(%w+)$"
  return ending == "png" or ending == "jpg" or ending == "jpeg"
end

-- Pictures of one folder in sorted order, appended to the list as {path, label}.
local function gather(dir, label, list)
  local names, message = core.folder_list(dir)
  if not names then return nil, message end
  for _, name in ipairs(names) do
    local path = dir .. "/" .. name
    if is_picture(name) and core.path_kind(path) == "file" then list[#list + 1] = { path = path, label = label } end
  end
  return names
end

-- The folder's own pictures, or those of its subfolders, each a class of its own.
local function find(dir)
  local list, classes = {}, {}
  local names, message = gather(dir, nil, list)
  if not names then return nil, message end
  if #list > 0 then return list end
  for _, name in ipairs(names) do
    local below = dir .. "/" .. name
    if core.path_kind(below) == "folder" then
      classes[#classes + 1] = name
      gather(below, #classes, list)
    end
  end
  return list, classes
end

-- Decode all; pictures that cannot be read are skipped, counted and named once. Returns how many, labels, the skipped.
local function decode(list, x)
  local labels, skipped = {}, {}
  for _, entry in ipairs(list) do
    local done, message = core.picture_into(x, #labels + 1, entry.path)
    if done then
      labels[#labels + 1] = entry.label or 1
    else
      skipped[#skipped + 1] = { path = entry.path, message = message }
    end
  end
  return labels, skipped
end

--- Pictures of a folder, each cut to its middle square and resized (area average; bilinear where it is enlarged).
--- A folder without pictures of its own may hold subfolders: each is then a class, in sorted order.
--- Files that cannot be read are skipped and named; `set.skipped` lists them as {path =, message =}.
---@param dir string
---@param opts? {size?: integer, channels?: integer}  size 32; channels: 3 (the default) or 1
---@return hd.data.Set? set  nil and a message where there is no picture that can be read
---@return string? message
local function folder(dir, opts)
  check.arg("data.folder", "dir", dir, "string")
  local o = check.options("data.folder", opts, { { "size", "integer", 32 }, { "channels", "integer", 3 } })
  if o.size < 1 or o.size > 1024 or (o.channels ~= 1 and o.channels ~= 3) then
    check.fail("data.folder", "size or channels is wrong: got %d and %d, expected 1 to 1024, and 1 or 3",
      o.size, o.channels)
  end
  local list, classes = find(dir)
  if not list then return nil, "data.folder: " .. classes end
  if #list == 0 then return nil, ("data.folder: no PNG or JPEG files in '%s'"):format(dir) end
  local x = core.zeros({ #list, o.channels, o.size, o.size }, { dtype = "u8" })
  local labels, skipped = decode(list, x)
  report("data.folder", "pictures", dir, skipped, #list)
  if #labels == 0 then return nil, ("data.folder: none of the %d pictures in '%s' can be read"):format(#list, dir) end
  local y = classes and core.tensor(labels, { dtype = "i64" })
  return Set(x:narrow(1, 1, #labels), y, { name = "folder " .. dir, classes = classes, skipped = skipped })
end

return folder
