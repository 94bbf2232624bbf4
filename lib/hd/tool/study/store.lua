-- hd/tool/study/store.lua: what has been measured, as lines of a .tsv file: the first names the columns, each other
-- one is a point of a cell. A cell (an arm with a seed under some settings) is written whole when it ends, its last
-- line being its point "end"; so a study that was interrupted goes on with the cells that have none.
-- Called by: augment_study, compare, compare_text.

local class = require "hd.class"

local Store = class "Store"

-- A line as a record, nil where it is not whole (the machine stopped while it was written).
local function parse(columns, line)
  local record, k = {}, 0
  for word in (line .. "\t"):gmatch "([^\t]*)\t" do
    k = k + 1
    local name = columns[k]
    if name and word ~= "" then
      record[name] = columns.texts[name] and word or tonumber(word)
      if record[name] == nil then return nil end
    end
  end
  return k == #columns and record.settings and record or nil
end

local function format(columns, record)
  local words = {}
  for k, name in ipairs(columns) do
    local v = record[name]
    words[k] = v == nil and "" or math.type(v) == "float" and ("%.6g"):format(v) or tostring(v)
  end
  return table.concat(words, "\t")
end

---@param path string
---@param settings string  those of the study at hand; lines of others stay in the file and are not looked at
---@param columns table  names, "arm", "seed", "point" and "settings" among them; texts: { name = true } of no numbers;
---  places: names of those that tell the points of an arm apart
function Store:init(path, settings, columns)
  self.path, self.settings, self.columns, self.records = path, settings, columns, {}
  local file <close> = io.open(path, "rb")
  local text = file and file:read "a" or ""
  self.whole = text == "" or text:sub(-1) == "\n"
  self.empty = text == ""
  for line in text:gmatch "[^\n]+" do
    local record = parse(columns, line)
    if record and record.settings == settings then self.records[#self.records + 1] = record end
  end
end

-- What tells a point from the others of its arm, as one word.
local function place_of(columns, record)
  local words = {}
  for k, name in ipairs(columns.places) do words[k] = tostring(record[name]) end
  return table.concat(words, "|")
end

--- Whether a cell is finished.
function Store:has(arm, seed)
  for _, r in ipairs(self.records) do
    if r.arm == arm and r.seed == seed and r.point == "end" then return true end
  end
  return false
end

--- Append the points of a finished cell, at once and on the disk.
---@param records table[]
---@return boolean? done  true, or nil and a message
---@return string? message
function Store:append(records)
  local lines = { self.whole and "" or "\n" }
  if self.empty then lines[1] = table.concat(self.columns, "\t") .. "\n" end
  for _, record in ipairs(records) do
    record.settings = self.settings
    lines[#lines + 1] = format(self.columns, record) .. "\n"
  end
  local file <close>, message = io.open(self.path, "ab")
  if not file then return nil, message end
  file:setvbuf "full"
  local done
  done, message = file:write(table.concat(lines))
  if done then done, message = file:flush() end
  if not done then return nil, message end
  self.whole, self.empty = true, false
  for _, record in ipairs(records) do
    self.records[#self.records + 1] = assert(parse(self.columns, format(self.columns, record)))
  end
  return true
end

--- The points of one arm's finished cells, the last of each cell where it was measured twice.
---@param arm string
---@return table[]
function Store:points(arm)
  local list, place = {}, {}
  for _, r in ipairs(self.records) do
    if r.arm == arm and self:has(arm, r.seed) then
      local key = place_of(self.columns, r)
      place[key] = place[key] or #list + 1
      list[place[key]] = r
    end
  end
  return list
end

return Store
