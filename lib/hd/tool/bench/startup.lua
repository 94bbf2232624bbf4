-- hd/tool/bench/startup.lua: from nothing to a prompt, to the library, and to the first train step, each a process. The
-- files are in the page cache. The shell that starts the process is in the time.
-- Called by: child.lua, bench.lua.

local core = require "hd.core"
local process = require "hd.tool.bench.process"
local timing = require "hd.tool.bench.timing"

local startup = {}

startup.names = { "startup_empty", "startup", "startup_step" }

local STEP = "-m bench --child unet32_tiny --once --threads %d"

-- A program that ends by telling its own peak of memory.
local function telling(text)
  return ("-e '%s io.write(io.open(\"/proc/self/status\"):read \"a\":match \"VmHWM:%%s*(%%d+)\")'"):format(text)
end

-- name -> arguments of hdlua, the same with its peak of memory in KiB printed, how often
local function plan(name, threads)
  if name == "startup_empty" then return "-e ''", telling "", 20 end
  if name == "startup" then return "-e 'require \"hd\"'", telling "require \"hd\"", 20 end
  local step = STEP:format(threads)
  return step, step, 5
end

--- Whether there is a start of this name.
---@param name string
---@return boolean
function startup.has(name)
  for _, known in ipairs(startup.names) do
    if name == known then return true end
  end
  return false
end

--- The record of one start: the median of several, after one that is not timed.
---@param name string
---@return table
function startup.run(name)
  local threads = core.threads()
  local words, with_memory, count = plan(name, threads)
  local program, times = process.hdlua(), {}
  for i = 0, count do
    local before = core.clock()
    assert(os.execute(("%s %s >/dev/null"):format(program, words)))
    times[i] = core.clock() - before
  end
  times[0] = nil
  table.sort(times)
  local kib = tonumber(process.line(("%s %s"):format(program, with_memory)))
  return timing.put({ name = name, threads = threads, peak_rss_mib = timing.round(kib and kib / 1024, 1) }, times)
end

return startup
