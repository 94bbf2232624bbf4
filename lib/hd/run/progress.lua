-- hd/run/progress.lua: what a run says while it goes on: one line that is written over on a terminal, a plain line
-- every few seconds elsewhere. Calls: core, hd.class. Called by: hd.run.

local core = require "hd.core"
local class = require "hd.class"

---@class hd.Progress
local Progress = class "hd.Progress"

local TERMINAL_SECONDS, PLAIN_SECONDS = 0.2, 5
local WINDOW = 10 -- the speed shown is that of the last one to two such spans, in seconds

---@param levels string[]  names of levels in the order in which they are shown; others follow, sorted
function Progress:init(levels)
  self.levels, self.last, self.open = levels, -math.huge, false
end

--- Begin to count: `done` steps are done now.
---@param done integer
---@param total integer
function Progress:start(done, total)
  self.total = total
  self.old = { step = done, time = core.clock() }
  self.new = self.old
end

--- Seconds that a step takes at present, everything in the loop included; nil before the first.
---@param step integer
---@return number?
function Progress:seconds_per_step(step)
  local now = core.clock()
  if now - self.new.time >= WINDOW then
    self.old, self.new = self.new, { step = step, time = now }
  end
  if step == self.old.step then return nil end
  return (now - self.old.time) / (step - self.old.step)
end

local function duration(seconds)
  local s = math.floor(seconds + 0.5)
  if s < 3600 then return ("%d:%02d"):format(s // 60, s % 60) end
  return ("%d:%02d:%02d"):format(s // 3600, s // 60 % 60, s % 60)
end

-- Names of the levels in an entry: declared ones first.
local function names_of(self, losses)
  local names, seen, others = {}, {}, {}
  for _, name in ipairs(self.levels) do
    if losses[name] then names[#names + 1] = name end
    seen[name] = true
  end
  for name in next, losses do -- order free: sorted below
    if not seen[name] then others[#others + 1] = name end
  end
  table.sort(others)
  return table.move(others, 1, #others, #names + 1, names)
end

-- The forms of the line, the first that fits is taken.
local FORMS = {
  { gap = "  ", step = "step %d/%d", speed = "%.1f samples/s", loss = " %.4f", rate = "rate %.2e" },
  { gap = " ", step = "%d/%d", speed = "%.0f/s", loss = " %.2f", rate = "rate %.0e" },
  { gap = " ", step = "%d/%d", speed = "%.0f/s", loss = " %.2f" },
}

local function compose(self, form, step, entry, left)
  local parts = { form.step:format(step, self.total) }
  local function add(format, value)
    if format and type(value) == "number" then parts[#parts + 1] = format:format(value) end
  end
  add(form.speed, entry.samples_per_s)
  add("loss" .. form.loss, entry.loss)
  for _, name in ipairs(type(entry.levels) == "table" and names_of(self, entry.levels) or {}) do
    add(name .. form.loss, entry.levels[name])
  end
  add(form.rate, entry.rate)
  if left then parts[#parts + 1] = "ETA " .. duration(left) end
  return table.concat(parts, form.gap)
end

--- The line's text: step, samples per second, losses, rate, time left; in short words where there is little room.
---@param step integer
---@param entry table  loss, levels, rate, samples_per_s where they are known
---@param width? integer  columns that there are
---@return string
function Progress:text(step, entry, width)
  local pace = self:seconds_per_step(step)
  local text
  for _, form in ipairs(FORMS) do
    text = compose(self, form, step, entry, pace and pace * (self.total - step))
    if not width or #text <= width then return text end
  end
  return text:sub(1, width)
end

--- Show the state of a step; does nothing where the last one was shown a moment ago.
---@param step integer
---@param entry table
---@param now? boolean  show it in any case
---@return boolean shown
function Progress:show(step, entry, now)
  local width, time = core.terminal_width(), core.clock()
  if not now and time - self.last < (width and TERMINAL_SECONDS or PLAIN_SECONDS) then return false end
  self.last = time
  local text = self:text(step, entry, width and width - 1)
  if width then
    io.write("\r", text, "\27[K")
  else
    io.write(text, "\n")
  end
  io.flush()
  self.open = width ~= nil
  return true
end

--- Write a line of its own; the progress line stays above it.
---@param text string
function Progress:say(text)
  io.write(self.open and "\n" or "", text, "\n")
  io.flush()
  self.open = false
end

--- End the progress line.
function Progress:close()
  if self.open then io.write "\n" end
  self.open = false
end

return Progress
