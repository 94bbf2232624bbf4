-- hd/tool/bench/machine.lua: what this machine can do at most: multiply-adds on numbers in registers, and bytes moved
-- between caches and memory. The best of many short rounds, as other work only slows them.
-- Called by: child.lua, session.lua.

local hd = require "hd"
local core = require "hd.core"
local timing = require "hd.tool.bench.timing"

local machine = {}

-- The shortest of the times of a function, tried for so many seconds.
local function least(seconds, fn)
  local best, start = math.huge, core.clock()
  repeat
    local before = core.clock()
    fn()
    local now = core.clock()
    best = math.min(best, now - before)
  until now - start > seconds
  return best
end

-- GF/s of multiply-adds in registers, all threads together.
local function arithmetic()
  local rounds, flops = 100000, nil
  local time = least(0.1, function() flops = core.multiply_add(rounds) end)
  return timing.round(flops and flops / time / 1e9, 1)
end

-- GB/s of copying a tensor of so many bytes, reads and writes together.
local function copying(bytes)
  local from, to = hd.ones(bytes // 4), hd.zeros(bytes // 4)
  return timing.round(2 * bytes / least(0.1, function() to:copy_(from) end) / 1e9, 1)
end

local KIB = 1024
local SIZES = { { "copy_256k", 256 * KIB }, { "copy_4m", 4 * KIB ^ 2 }, { "copy_256m", 256 * KIB ^ 2 } }

--- Measure here: a record with gflops and GB/s of copies of 256 KiB, 4 MiB and 256 MiB.
---@return table
function machine.measure()
  local record = { name = "machine", threads = core.threads(), gflops_per_s = arithmetic() }
  for _, size in ipairs(SIZES) do record[size[1]] = copying(size[2] // 1 | 0) end
  return record
end

-- The processor as the system names it.
local function cpu()
  local file <close> = io.open "/proc/cpuinfo"
  local text = file and file:read "a" or ""
  local name = text:match "model name%s*:%s*([^\n]+)"
  if not name then return nil end
  return ("%s, family %s model %s"):format(name, text:match "cpu family%s*:%s*(%d+)", text:match "model%s*:%s*(%d+)")
end

--- What the head of a JSON file says of the machine.
---@return table
function machine.describe()
  local _, isa = core.backend()
  return { cores = core.cores, isa = isa, hdlua = core.version, cpu = cpu() }
end

return machine
