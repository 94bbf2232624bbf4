-- hd/profile.lua: hd.profile: where the time of a piece of a script goes. For a whole script: `hdlua --profile`.
-- Calls: hd.core. Called by: users.

local check = require "hd.check"
local class = require "hd.class"
local core = require "hd.core"
local profile = {}

--- What hd.profile measured: `tostring(report)` is the table that `hdlua --profile` prints.
---@class hd.Profile
---@field seconds number  wall time; the rows' seconds add up to it
---@field rows table[]    { name, pass, layer, calls, seconds, processor_seconds, flops, bytes }; pass is "forward",
--- "backward" or "outside" (of operations: "Lua", "garbage collection", "adam" ...); layer is nil outside of layers;
--- flops count 2 for each multiply-add of products
local Report = class "Profile"

function Report:__tostring() return self.text end

local function report_of(session)
  local rows, text = core.profile_end(session)
  local report = setmetatable({ rows = rows, text = text, seconds = 0 }, Report)
  for _, row in ipairs(rows) do report.seconds = report.seconds + row.seconds end
  return report
end

local Running = class "RunningProfile"

--- End a profile that `hd.profile()` began.
---@return hd.Profile report
function Running:stop() return report_of(self.session) end

function Running:__close()
  local ok, report = pcall(report_of, self.session)
  if ok then io.stderr:write(tostring(report)) end
end

--- Run fn(...) and tell where its time went: by operation, forward and backward apart, and by layer.
---
---     local report, loss = hd.profile(step, x)
---     print(report)
---
--- Without fn: `local p <close> = hd.profile()` prints at the end of the block, to stderr; or `p:stop()` gives the
--- report. For a whole script: `hdlua --profile script.lua`. Time is counted once: a row's seconds leave out what other
--- rows have, so that all rows add up to the wall time. GFLOP/s count products by the direct formula (2 for each
--- multiply-add; nothing is deducted for a method that saves some), GB/s the operands of every kernel. `cores` is
--- processor time over wall time: far below the number of threads where a part of the work is serial.
---@param fn? fun(...): ...
---@return hd.Profile report
---@return any ...  results of fn
function profile.profile(fn, ...)
  if fn == nil then return setmetatable({ session = core.profile_begin() }, Running) end
  check.arg("profile", "fn", fn, "callable")
  local session <close> = core.profile_begin()
  local results = table.pack(fn(...))
  return report_of(session), table.unpack(results, 1, results.n)
end

return profile
