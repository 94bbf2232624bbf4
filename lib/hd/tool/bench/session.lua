-- hd/tool/bench/session.lua: what one call of the bench has measured, and how it goes on after an interruption: the
-- file of --json is written after every result. Called by: bench.lua.

local core = require "hd.core"
local class = require "hd.class"
local machine = require "hd.tool.bench.machine"
local process = require "hd.tool.bench.process"
local report = require "hd.tool.bench.report"
local verify = require "hd.tool.bench.verify"

local Session = class "Session"

--- results: records in the order in which they came. A record is one workload of one side in one round, with `side`
--- (hdlua or peer), `round`, `gemm` and `workload` (what was asked for) besides what the process reported.
---@param opts { json: string?, resume: boolean, peer: string?, seed: integer, seconds: number, steps: integer }
function Session:init(opts)
  self.opts, self.machine, self.peaks = opts, machine.describe(), {}
  local file <close> = opts.resume and opts.json and io.open(opts.json)
  local before = file and core.json_decode(file:read "a") or {}
  self.results, self.verified = before.results or {}, before.verified or {}
end

function Session:write()
  if not self.opts.json then return end
  local data = { machine = self.machine, results = self.results, verified = self.verified, table = self:rows() }
  assert(core.file_write(self.opts.json, core.json_encode(data) .. "\n"))
end

--- The rows of the table so far, as of report.rows.
function Session:rows() return report.rows(self.results, self.peaks, self.verified) end

--- Measure what the machine can do with each number of threads.
---@param counts integer[]
function Session:measure_machine(counts)
  self.machine.measured = {}
  for i, threads in ipairs(counts) do
    local list, message = process.records(self:command { side = "hdlua", workload = "machine", threads = threads })
    self.machine.measured[i] = assert(list, message)[1]
    self.peaks[threads] = list[1].gflops_per_s
  end
end

-- The shell command that does a task.
function Session:command(task)
  local words = ("--child %s --threads %d --seconds %.3f"):format(task.workload, task.threads, self.opts.seconds)
  if task.side == "peer" then return self.opts.peer .. " " .. words end
  local choice = task.gemm and ("HDLUA_GEMM=%s "):format(task.gemm) or ""
  return ("%s%s -m bench %s --seed %d --activations %s"):format(choice, process.hdlua(), words, self.opts.seed,
    self.opts.activations)
end

local function key(r) return ("%s|%s|%d|%d|%s"):format(r.side, r.workload, r.threads, r.round, r.gemm or "") end

--- Whether a task was done, now or before an interruption.
function Session:has(task)
  for _, r in ipairs(self.results) do
    if key(r) == key(task) then return true end
  end
  return false
end

--- Run one task in a process of its own and keep its records.
---@param task table  side, workload, threads, round, gemm
---@return boolean done
function Session:run(task)
  local list, message = process.records(self:command(task))
  if not list then
    io.stderr:write(("bench: %s of %s failed: %s\n"):format(task.workload, task.side, message))
    return false
  end
  for _, r in ipairs(list) do
    r.side, r.round, r.gemm, r.workload = task.side, task.round, task.gemm, task.workload
    self.results[#self.results + 1] = r
    print(("round %d  %-6s %-33s %d thread%s %10.3f ms %7.0f MiB  %s"):format(r.round, r.side, r.name, r.threads,
      r.threads == 1 and " " or "s", r.ms_median, r.peak_rss_mib or 0, r.gemm or ""))
  end
  self:write()
  return true
end

local function joined(losses)
  local words = {}
  for i, loss in ipairs(losses) do words[i] = ("%.6f"):format(loss) end
  return table.concat(words, " ")
end

--- Repeat the peer's first steps of a model, unless that was done before an interruption.
---@param name string
---@param threads integer
---@return boolean agree
function Session:verify(name, threads)
  for _, r in ipairs(self.verified) do
    if r.name == name then return r.difference <= verify.limit end
  end
  local ours = ("%s -m bench --child %s --threads %d"):format(process.hdlua(), name, threads)
  local theirs = ("%s --threads %d"):format(self.opts.peer, threads)
  local r, message = verify.compare(name, ours, theirs, self.opts.steps)
  if not r then
    io.stderr:write(("bench: verifying %s failed: %s\n"):format(name, message))
    return false
  end
  self.verified[#self.verified + 1] = r
  self:write()
  print(("losses of %s\n  hdlua %s\n  peer  %s\n  they differ by %.1e at most, allowed is %.0e"):format(name,
    joined(r.losses), joined(r.peer_losses), r.difference, verify.limit))
  return r.difference <= verify.limit
end

return Session
