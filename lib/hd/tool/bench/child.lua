-- hd/tool/bench/child.lua: one workload, timed in this process. Called by: bench.lua.

local core = require "hd.core"
local machine = require "hd.tool.bench.machine"
local models = require "hd.tool.bench.models"
local operations = require "hd.tool.bench.operations"
local process = require "hd.tool.bench.process"
local startup = require "hd.tool.bench.startup"
local timing = require "hd.tool.bench.timing"
local verify = require "hd.tool.bench.verify"

local child = {}

local MOST = 5 -- times the seconds that a result should take; single operations should take half

-- What every record of this process says besides its times.
local function report(record, times)
  record.peak_rss_mib, record.threads = timing.peak_memory(), core.threads()
  record.dtype, record.device = "float32", "cpu"
  process.report(timing.put(record, times))
end

local function run_model(w, seconds)
  local forward, total = w.cost()
  local net = w.net()
  local values, tensors = net:num_parameters()
  local times = timing.measure(models.step(w, net), seconds, MOST * seconds)
  report({
    name = w.name, config = { shape = w.shape, lr = w.lr, ema = w.ema }, params = values, tensors = tensors,
    gflop_forward = timing.round(forward, 2), gflop_step = timing.round(total, 2),
    gflops_per_s = timing.round(total / timing.median(times), 2),
  }, times)
end

-- One step, and the peak of memory in KiB.
local function run_once(w)
  models.step(w, w.net())(true)
  print(timing.peak_memory() * 1024 // 1 | 0)
end

local function run_operations(name, seconds)
  for _, o in ipairs(operations.prepare(name)) do
    local times = timing.measure(o.step, seconds / 2, MOST * seconds, o.before)
    local middle = timing.median(times)
    report({
      name = o.name, config = o.config, gflop_step = timing.round(o.gflop, 4),
      gflops_per_s = o.gflop and timing.round(o.gflop / middle, 2),
      gbytes_per_s = o.bytes and timing.round(o.bytes / middle / 1e9, 2),
    }, times)
  end
end

--- Run what the parent asks for and print a record of each result.
---@param name string  of a workload, or "machine"
---@param opts { seconds: number, once: boolean, replay: string? }
function child.run(name, opts)
  if name == "machine" then return process.report(machine.measure()) end
  if startup.has(name) then return process.report(startup.run(name)) end
  if operations.has(name) then return run_operations(name, opts.seconds) end
  if opts.replay then return process.report(verify.replay(name, opts.replay)) end
  local run = opts.once and run_once or run_model
  return run(models.find(name), opts.seconds)
end

return child
