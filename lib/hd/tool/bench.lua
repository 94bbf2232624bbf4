-- hd/tool/bench.lua: `hdlua -m bench`, the reference workloads, timed through the public API, beside a peer.
--
--     hdlua -m bench                                              everything; PyTorch beside it where it is installed
--     hdlua -m bench --workload unet32,conv --threads 1,2 --rounds 3 --gemm kernel,blas --json out.json
--     hdlua -m bench --workload all --describe                    sizes and costs of the networks
--     hdlua -m bench --machine                                    what the machine can do at most
--
-- Each workload runs in a process of its own, so that its peak of memory is its own: three untimed steps, then steps
-- one by one until there are at least 10 and 2 s have gone by (single operations: 1 s), or 10 s with at least 3. The
-- median counts. GFLOP are counted by formula: nothing that an algorithm saves is deducted.
-- A round runs every workload, ours and right after it the peer's; ratios are medians of the rounds' own ratios. The
-- file of --json is written after every result; --resume goes on where an interrupted one ended.
-- The peer is any command that understands `--child NAME --threads N` as this tool does; --peer names it, and
-- scripts/bench_peer.sh of the source tree is PyTorch's.

local hd = require "hd"
local core = require "hd.core"
local check = require "hd.check"
local machine = require "hd.tool.bench.machine"
local models = require "hd.tool.bench.models"
local operations = require "hd.tool.bench.operations"
local process = require "hd.tool.bench.process"
local report = require "hd.tool.bench.report"
local startup = require "hd.tool.bench.startup"
local timing = require "hd.tool.bench.timing"

-- Names -----------------------------------------------------------------------------------------------------------

local GROUPS = {
  { "models", models.names }, { "operations", operations.names }, { "conv", operations.convolutions },
  { "startup", startup.names },
}

local all_names, group_names, is_startup = {}, { "all" }, {}
for _, group in ipairs(GROUPS) do
  group_names[#group_names + 1] = group[1]
  table.move(group[2], 1, #group[2], #all_names + 1, all_names)
end
for _, name in ipairs(startup.names) do is_startup[name] = true end

local function stop(format, ...)
  io.stderr:write("bench: ", format:format(...), "\n")
  os.exit(2, true)
end

local function words_of(text)
  local list = {}
  for word in text:gmatch "[^,%s]+" do list[#list + 1] = word end
  return list
end

local function has(name) return is_startup[name] or operations.has(name) or models.find(name) ~= nil end

local function selected(text)
  local list = {}
  for _, word in ipairs(words_of(text)) do
    local found = word == "all" and all_names
    for _, group in ipairs(GROUPS) do found = found or word == group[1] and word ~= "startup" and group[2] end
    if not found and not has(word) then
      local known = table.move(group_names, 1, #group_names, #all_names + 1, { table.unpack(all_names) })
      stop("no workload '%s'. %s", word, check.suggestion(word, known))
    end
    found = found or { word }
    table.move(found, 1, #found, #list + 1, list)
  end
  return list
end

local function thread_counts(text)
  local list = {}
  for i, word in ipairs(words_of(tostring(text or core.threads()))) do
    local n = math.tointeger(tonumber(word))
    if not n or n < 1 or n > 256 then stop("--threads has the wrong value: got '%s', expected 1 to 256", word) end
    list[i] = n
  end
  return list
end

-- A workload in this process --------------------------------------------------------------------------------------

local function run_model(name, args)
  local w = models.find(name)
  local forward, total = w.cost()
  local net = w.net()
  local values, tensors = net:num_parameters()
  local step = models.step(w, net)
  if args.once then
    step(true)
    print(timing.peak_memory() * 1024 // 1 | 0)
    return
  end
  local times = timing.measure(step)
  process.report(timing.put({
    name = name, config = { shape = w.shape, lr = w.lr, ema = w.ema }, params = values, tensors = tensors,
    gflop_forward = timing.round(forward, 2), gflop_step = timing.round(total, 2),
    gflops_per_s = timing.round(total / timing.median(times), 2), peak_rss_mib = timing.peak_memory(),
    threads = core.threads(), dtype = "float32", device = "cpu",
  }, times))
end

local function run_operations(name)
  for _, o in ipairs(operations.prepare(name)) do
    local times = timing.measure(o.step, o)
    local middle = timing.median(times)
    process.report(timing.put({
      name = o.name, config = o.config, gflop_step = timing.round(o.gflop, 4),
      gflops_per_s = o.gflop and timing.round(o.gflop / middle, 2),
      gbytes_per_s = o.bytes and timing.round(o.bytes / middle / 1e9, 2), peak_rss_mib = timing.peak_memory(),
      threads = core.threads(), dtype = "float32", device = "cpu",
    }, times))
  end
end

local function run_here(name, args)
  local threads = thread_counts(args.threads)[1]
  core.threads(threads)
  if name == "machine" then return process.report(machine.measure(threads)) end
  if is_startup[name] then return process.report(startup.run(name, threads)) end
  selected(name)
  local run = operations.has(name) and run_operations or run_model
  return run(name, args)
end

-- The peer --------------------------------------------------------------------------------------------------------

-- The command of the peer, or nil: what --peer says, or PyTorch's beside this source tree where it is installed.
local function find_peer(args)
  if args.peer == "none" then return nil end
  if args.peer ~= "auto" then return args.peer end
  if args.workload and not args.rounds then return nil end
  local root = arg[0]:match "^(.*)lib/hd/tool/bench%.lua$"
  local script = root and root .. "scripts/bench_peer.sh"
  local file <close> = script and io.open(script)
  if not file then return nil end
  local command = "sh " .. process.quoted(script)
  if os.execute(command .. " --check") then return command end
  io.stderr:write("bench: no PyTorch beside it: scripts/bench_peer.sh --install installs it\n")
end

-- Rounds ----------------------------------------------------------------------------------------------------------

local Session = {}
Session.__index = Session

-- What has been measured so far, written to args.json after each result.
local function session(args)
  local self = setmetatable({ path = args.json, machine = machine.describe(), results = {}, peaks = {} }, Session)
  local file <close> = args.resume and args.json and io.open(args.json)
  if file then self.results = core.json_decode(file:read "a").results end
  return self
end

local function key(r) return ("%s|%s|%d|%d|%s"):format(r.side, r.workload, r.threads, r.round, r.gemm or "") end

function Session:has(task)
  for _, r in ipairs(self.results) do
    if r.workload and key(r) == key(task) then return true end
  end
  return false
end

function Session:rows() return report.rows(self.results, self.peaks) end

function Session:write()
  if not self.path then return end
  local data = { machine = self.machine, results = self.results, table = self:rows() }
  assert(core.file_write(self.path, core.json_encode(data) .. "\n"))
end

-- Measure what the machine can do with each number of threads.
function Session:measure_machine(counts, args)
  self.machine.measured = {}
  for i, threads in ipairs(counts) do
    local task = { side = "hdlua", workload = "machine", threads = threads }
    local list, message = process.records(self:command(task, args))
    if not list then stop("machine failed: %s", message) end
    self.machine.measured[i] = list[1]
    self.peaks[threads] = list[1].gflops_per_s
  end
end

function Session:command(task, args)
  if task.side == "peer" then
    return ("%s --child %s --threads %d"):format(args.peer, task.workload, task.threads)
  end
  local choice = task.gemm and ("HDLUA_GEMM=%s "):format(task.gemm) or ""
  return ("%s%s -m bench --child %s --threads %d --seed %d"):format(choice, process.hdlua(), task.workload,
    task.threads, args.seed)
end

-- Run one task and keep its records; false and a message where it failed.
function Session:run(task, args)
  local list, message = process.records(self:command(task, args))
  if not list then return false, message end
  for _, r in ipairs(list) do
    r.side, r.round, r.gemm, r.workload = task.side, task.round, task.gemm, task.workload
    self.results[#self.results + 1] = r
    print(("round %d  %-6s %-32s %d thread%s %10.3f ms %7.0f MiB %s"):format(r.round, r.side, r.name, r.threads,
      r.threads == 1 and " " or "s", r.ms_median, r.peak_rss_mib or 0, r.gemm or ""))
  end
  self:write()
  return true
end

-- Whether it matters who multiplies matrices.
local function multiplies(name)
  return models.find(name) ~= nil or name:find "^conv_" ~= nil or name:find "^sgemm_" ~= nil
end

-- Everything in order: round by round, and in a round ours before the peer's.
local function tasks(args)
  local list = {}
  local choices = args.gemm and words_of(args.gemm) or { false }
  for round = 1, args.rounds or 1 do
    for _, threads in ipairs(thread_counts(args.threads)) do
      for _, workload in ipairs(selected(args.workload or "all")) do
        local function add(side, gemm)
          list[#list + 1] = { side = side, workload = workload, threads = threads, round = round, gemm = gemm }
        end
        for _, choice in ipairs(multiplies(workload) and choices or { false }) do add("hdlua", choice or nil) end
        if args.peer then add("peer") end
      end
    end
  end
  return list
end

local function run_all(args)
  args.peer = find_peer(args)
  local list, failed, s = tasks(args), false, session(args)
  s:measure_machine(thread_counts(args.threads), args)
  io.stdout:setvbuf "line"
  for _, task in ipairs(list) do
    if not s:has(task) then
      local done, message = s:run(task, args)
      if not done then
        failed = true
        io.stderr:write(("bench: %s of %s failed: %s\n"):format(task.workload, task.side, message))
      end
    end
  end
  s:write()
  print("\n" .. report.table(s:rows()))
  return failed
end

-- Other answers ---------------------------------------------------------------------------------------------------

local function describe(list)
  for _, name in ipairs(list) do
    local w = models.find(name)
    if w then
      local values, tensors = w.net():num_parameters()
      local forward, step = w.cost()
      print(("%s: %d parameters in %d tensors, GFLOP %.2f forward, %.2f a step"):format(name, values, tensors, forward,
        step))
    end
  end
end

local function show_machine(args)
  local s = session(args)
  s:measure_machine(thread_counts(args.threads), args)
  print(("%s, %d cores, %s"):format(s.machine.cpu or "unknown processor", s.machine.cores, s.machine.isa))
  for _, m in ipairs(s.machine.measured) do
    print(("%d threads: %.1f GF/s in registers; copying 256 KiB %.1f, 4 MiB %.1f, 256 MiB %.1f GB/s"):format(m.threads,
      m.gflops_per_s, m.copy_256k, m.copy_4m, m.copy_256m))
  end
  s:write()
end

local args = hd.args({
  workload = hd.args.string, threads = hd.args.string, rounds = hd.args.integer, gemm = hd.args.string, peer = "auto",
  json = hd.args.string, resume = false, describe = false, machine = false, child = hd.args.string, once = false,
}, {
  "Time the reference workloads, beside a peer.",
  workload = "names or groups, comma-separated: " .. table.concat(group_names, ", ") .. " (all); names are "
    .. table.concat(models.names, ", ") .. ", …",
  threads = "numbers of threads, comma-separated", rounds = "how often; the median counts (1)",
  gemm = "kernel, blas or both, comma-separated: who multiplies matrices",
  peer = "command that runs the same elsewhere, none, or auto: PyTorch with --rounds or without --workload",
  json = "write { machine, results, table } there", resume = "go on with the file of --json",
  describe = "print the networks' sizes instead", machine = "print what the machine can do instead",
  child = "run one workload in this process", once = "with --child: one step",
})

if args.child then
  run_here(args.child, args)
elseif args.describe then
  describe(selected(args.workload or "models"))
elseif args.machine then
  show_machine(args)
else
  os.exit(run_all(args) and 1 or 0, true)
end
