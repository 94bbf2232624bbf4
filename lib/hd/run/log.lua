-- hd/run/log.lua: the log of a run, log.jsonl: one JSON object a line.
-- Calls: core, hd.check, hd.class. Called by: hd.run.
-- Lines of steps have `step` and what the script logs; other lines have `event` ("start", "plan", "resume", "end").

local core = require "hd.core"
local class = require "hd.class"
local check = require "hd.check"

---@class hd.Log
---@field path string
local Log = class "hd.Log"

--- Open a log for appending.
---@param path string
---@param ready fun(): boolean?, string?  called before each write: may the folder be written? Else nil and a message
---@param say fun(text: string)           told once when writing begins to fail, and when it works again
---@return hd.Log? log  nil and a message where it cannot be written
---@return string? message
local function open(path, ready, say)
  local held, message = core.hold(path)
  if not held then return nil, message end
  local log = Log()
  log.path, log.held, log.ready, log.say, log.waiting = path, held, ready, say, {}
  return log
end

-- Numbers for tensors without dimensions, in nested tables too.
local function plain(value)
  if check.is_tensor(value) then return value:item() end
  if type(value) ~= "table" then return value end
  local out = {}
  for key, v in next, value do out[key] = plain(v) end -- order free: separate keys
  return out
end

-- The log again where its folder has vanished: what was written before is still in our hands.
local function put_back(self)
  if self.held:there() then return true end
  local held, message = core.hold(self.path)
  if not held then return nil, message end
  local text
  text, message = self.held:read()
  if text then text, message = held:append(text) end
  if not text then
    held:close()
    return nil, message
  end
  self.held:close()
  self.held = held
  return true
end

-- Write the lines that wait: all of them, or none.
local function write_out(self)
  local fine, message = self.ready()
  if fine then fine, message = put_back(self) end
  if fine and self.waiting[1] then fine, message = self.held:append(table.concat(self.waiting)) end
  if fine then self.waiting = {} end
  return fine, message
end

--- Write a line, and those that could not be written before. Where that fails it is said once, and the lines wait.
---@param entry table  numbers, strings, booleans and tables of them
---@return boolean? done  true, or nil and a message
---@return string? message
function Log:write(entry)
  self.waiting[#self.waiting + 1] = core.json_encode(entry) .. "\n"
  return self:flush()
end

--- Write the lines that could not be written before.
---@return boolean? done  true, or nil and a message
---@return string? message
function Log:flush()
  local fine, message = write_out(self)
  if fine and self.trouble then self.say "run: the log is written again, no line is missing" end
  if not fine and not self.trouble then self.say(("run: the log has to wait: %s"):format(message)) end
  self.trouble = not fine
  return fine, message
end

--- See to it that all that was written outlasts a loss of power.
function Log:sync() return self.held:sync() end

function Log:close() self.held:close() end

--- Iterate over the entries of a log file; lines that a crash cut short are left out.
---@param path string
---@return fun(): table?
local function entries(path)
  local handle = io.open(path)
  return function()
    local line = handle and handle:read "l"
    while line do
      local entry = core.json_decode(line)
      if type(entry) == "table" then return entry, line end
      line = handle:read "l"
    end
    if handle then handle:close() end
  end
end

--- Drop the lines of steps after `step`, which a run that goes on from there does again, and a last line that was cut
--- short. Any other line stays as it is.
---@param path string
---@param step integer
---@return boolean? done  true, or nil and a message
---@return string? message
local function trim(path, step)
  local handle <close> = io.open(path, "rb")
  if not handle then return true end
  local kept, dropped = {}, false
  for line in handle:lines "L" do
    local entry = core.json_decode(line)
    local later = type(entry) == "table" and math.type(entry.step) == "integer" and entry.step > step
    if later or line:sub(-1) ~= "\n" then dropped = true else kept[#kept + 1] = line end
  end
  return not dropped or core.file_write(path, table.concat(kept))
end

-- Add a value to the curve of that name: means over spans of `width` steps.
local function add_point(curves, names, name, step, value, width)
  if type(value) ~= "number" then return end
  local curve = curves[name]
  if not curve then
    curve = { name = name, sums = {}, counts = {}, last = 0 }
    curves[name], names[#names + 1] = curve, name
  end
  local i = (step - 1) // width + 1
  curve.sums[i], curve.counts[i] = (curve.sums[i] or 0) + value, (curve.counts[i] or 0) + 1
  curve.last = math.max(curve.last, i)
end

local function finished(curve, width)
  local out = { name = curve.name, x = {}, y = {} }
  for i = 1, curve.last do
    if curve.counts[i] then
      out.x[#out.x + 1] = (i - 0.5) * width + 0.5
      out.y[#out.y + 1] = curve.sums[i] / curve.counts[i]
    end
  end
  return out
end

-- "loss", then levels in their declared order, then others sorted.
local function sort_names(names, levels)
  local place = { loss = 0 }
  for i, name in ipairs(levels) do place[name] = i end
  table.sort(names, function(a, b)
    local pa, pb = place[a] or math.huge, place[b] or math.huge
    if pa ~= pb then return pa < pb end
    return a < b
  end)
end

--- The curves of the losses in a log, as hd.plot.lines takes them: "loss", then the levels.
---@param path string
---@param steps integer    steps that the log may hold
---@param points integer   about so many points in each curve, means over the steps between
---@param levels string[]  names of levels in the order wanted; others follow, sorted
---@return { name: string, x: number[], y: number[] }[]
local function curves(path, steps, points, levels)
  local found, names, width = {}, {}, math.max(1, steps // points)
  for entry in entries(path) do
    if entry.step and not entry.event then
      add_point(found, names, "loss", entry.step, entry.loss, width)
      for name, value in next, type(entry.levels) == "table" and entry.levels or {} do -- order free: sorted below
        add_point(found, names, name, entry.step, value, width)
      end
    end
  end
  sort_names(names, levels)
  local list = {}
  for i, name in ipairs(names) do list[i] = finished(found[name], width) end
  return list
end

return { open = open, entries = entries, trim = trim, plain = plain, curves = curves }
