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
-- A round runs every workload, ours and right after it the peer's; ratios are medians of the rounds' own ratios. With N
-- rounds each of them takes an Nth of these times. The file of --json is written after every result; --resume goes on
-- where an interrupted one ended.
-- The peer is any command that understands `--child NAME --threads N --seconds S` as this tool does; --peer names it,
-- and scripts/bench_peer.sh of the source tree is PyTorch's. --verify starts from its weights and repeats its first
-- steps with the same data and draws: the losses must agree to 1e-4 (`--rounds 0 --verify` does nothing else).

local hd = require "hd"
local core = require "hd.core"
local check = require "hd.check"
local child = require "hd.tool.bench.child"
local models = require "hd.tool.bench.models"
local operations = require "hd.tool.bench.operations"
local process = require "hd.tool.bench.process"
local report = require "hd.tool.bench.report"
local startup = require "hd.tool.bench.startup"
local verify = require "hd.tool.bench.verify"
local Session = require "hd.tool.bench.session"
local words_of = require "hd.tool.words"

-- Names -----------------------------------------------------------------------------------------------------------

-- Groups of workloads. `startup` is also the name of one: the group is `starts`.
local GROUPS = {
  models = models.names, operations = operations.names, conv = operations.convolutions, starts = startup.names,
  growth = models.growth, all = {},
}
local known = { "all", "models", "operations", "conv", "starts", "growth" }
for _, group in ipairs { "models", "operations", "conv", "starts" } do
  table.move(GROUPS[group], 1, #GROUPS[group], #GROUPS.all + 1, GROUPS.all)
end
table.move(GROUPS.all, 1, #GROUPS.all, #known + 1, known)

local function stop(format, ...)
  io.stderr:write("bench: ", format:format(...), "\n")
  os.exit(2, true)
end

local function selected(text)
  local list = {}
  for _, word in ipairs(words_of(text)) do
    local found = GROUPS[word]
    if not found and (startup.has(word) or operations.has(word) or models.find(word)) then found = { word } end
    if not found then stop("no workload '%s'. %s", word, check.suggestion(word, known)) end
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
  if #list == 0 then stop "--threads has no value" end
  return list
end

local function gemm_choices(text)
  local list = words_of(text or "")
  for _, word in ipairs(list) do
    if word ~= "kernel" and word ~= "blas" then
      stop("--gemm has the wrong value: got '%s', expected kernel, blas or both", word)
    end
  end
  return list
end

-- The peer --------------------------------------------------------------------------------------------------------

-- The command of the peer, or nil: what --peer says, or PyTorch's beside this source tree where it is installed.
local function find_peer(args)
  if args.peer == "none" then return nil end
  if args.peer ~= "auto" then return args.peer end
  if args.workload and not args.rounds and not args.verify then return nil end
  local root = arg[0]:match "^(.*)lib/hd/tool/bench%.lua$"
  local script = root and root .. "scripts/bench_peer.sh"
  local file <close> = script and io.open(script)
  if not file then return nil end
  local command = "sh " .. process.quoted(script)
  if os.execute(command .. " --check") then return command end
  io.stderr:write("bench: no PyTorch beside it: scripts/bench_peer.sh --install installs it\n")
end

-- Runs ------------------------------------------------------------------------------------------------------------

-- Whether it matters who multiplies matrices.
local function multiplies(name)
  return models.find(name) ~= nil or name:find "^conv_" ~= nil or name:find "^sgemm_" ~= nil
end

-- Everything in order: round by round, and in a round ours before the peer's.
local function tasks(args)
  local list, choices = {}, gemm_choices(args.gemm)
  local function add(task)
    list[#list + 1] = task
    return task
  end
  for round = 1, args.rounds or 1 do
    for _, threads in ipairs(args.threads) do
      for _, workload in ipairs(selected(args.workload or "all")) do
        local count = multiplies(workload) and #choices or 0
        for i = math.min(count, 1), count do
          add { side = "hdlua", workload = workload, threads = threads, round = round, gemm = choices[i] }
        end
        if args.peer then add { side = "peer", workload = workload, threads = threads, round = round } end
      end
    end
  end
  return list
end

-- Verify every chosen model; tells whether all agree.
local function verify_all(session, args)
  if not args.peer then stop "--verify needs a peer: scripts/bench_peer.sh --install installs PyTorch" end
  local all_agree = true
  for _, name in ipairs(selected(args.workload or "models")) do
    if verify.applies(name) then
      all_agree = session:verify(name, args.threads[#args.threads]) and all_agree
    end
  end
  return all_agree
end

-- Run every task that has not been done; tells whether all ended well.
local function measure_all(session, list, args)
  local all_done = true
  session:measure_machine(args.threads)
  for _, task in ipairs(list) do
    if not session:has(task) then all_done = session:run(task) and all_done end
  end
  session:write()
  print("\n" .. report.table(session:rows()))
  return all_done
end

local function run_all(args)
  args.peer = find_peer(args)
  local list, session, good = tasks(args), Session(args), true
  io.stdout:setvbuf "line"
  if args.verify then good = verify_all(session, args) end
  if #list > 0 then good = measure_all(session, list, args) and good end
  return good
end

-- Other answers ---------------------------------------------------------------------------------------------------

local function describe(list)
  for _, name in ipairs(list) do
    local w = models.find(name)
    if w then
      print(("%s: %d parameters in %d tensors"):format(name, w.net():num_parameters())
        .. (", GFLOP %.2f forward, %.2f a step"):format(w.cost()))
    end
  end
end

local function show_machine(args)
  local session = Session(args)
  session:measure_machine(args.threads)
  local m = session.machine
  print(("%s, %d cores, %s"):format(m.cpu or "unknown processor", m.cores, m.isa))
  for _, r in ipairs(m.measured) do
    print(("%d threads: %.1f GF/s in registers; copying 256 KiB %.1f, 4 MiB %.1f, 256 MiB %.1f GB/s"):format(r.threads,
      r.gflops_per_s, r.copy_256k, r.copy_4m, r.copy_256m))
  end
  session:write()
end

local args = hd.args({
  workload = hd.args.string, threads = hd.args.string, rounds = hd.args.integer, gemm = hd.args.string, peer = "auto",
  seconds = hd.args.number, json = hd.args.string, resume = false, verify = false, steps = 10, describe = false,
  machine = false, child = hd.args.string, once = false, replay = hd.args.string, activations = "f32",
}, {
  "Time the reference workloads, beside a peer.",
  workload = "names or groups, comma-separated (all): " .. table.concat(known, ", ")
    .. "; any conv_N_CIN_COUT_H_K_STRIDE and unet_BATCH_WIDTH_SIZE",
  threads = "numbers of threads, comma-separated", rounds = "how often; the median counts (1); 0: not at all",
  gemm = "kernel, blas or both, comma-separated: who multiplies matrices",
  peer = "command that runs the same elsewhere, none, or auto: PyTorch with --rounds or without --workload",
  seconds = "how long a result should take: 2, with more rounds less; single operations take half of it",
  json = "write { machine, results, verified, table } there", resume = "go on with the file of --json",
  verify = "compare the losses of the models' first steps with the peer's", steps = "how many of them",
  describe = "print the networks' sizes instead", machine = "print what the machine can do instead",
  child = "run one workload in this process", once = "with --child: one step",
  replay = "with --child: compare with the steps in this file",
  activations = "f32 or bf16: what hdlua keeps for backward (hd.activations)",
})
args.threads = thread_counts(args.threads)
args.seconds = args.seconds or 2 / math.max(1, args.rounds or 1)

if args.child then
  core.threads(args.threads[1])
  core.activations(args.activations)
  if args.child ~= "machine" then selected(args.child) end
  child.run(args.child, args)
elseif args.describe then
  describe(selected(args.workload or "models"))
elseif args.machine then
  show_machine(args)
else
  os.exit(run_all(args) and 0 or 1, true)
end
