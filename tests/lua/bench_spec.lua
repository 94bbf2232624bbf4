-- tests/lua/bench_spec.lua: the reference networks are what they should be, and rounds, peer, table and file work. The
-- peer here is a script that tells fixed figures; PyTorch is not needed.

local hd = require "hd"
local core = require "hd.core"
local models = require "hd.tool.bench.models"
local report = require "hd.tool.bench.report"
local timing = require "hd.tool.bench.timing"
local verify = require "hd.tool.bench.verify"
local sandbox = require "tests.lua.sandbox"

-- A peer that takes 100 ms and 50 MiB for everything, but fails at what it does not know; it copies what it exports.
local PEER = [[
while [ $# -gt 0 ]; do
  case $1 in
    --child) name=$2 ;; --threads) threads=$2 ;; --out) out=$2 ;; --export) cp exported.safetensors copy ;;
  esac
  shift
done
if [ -n "$out" ]; then mv copy "$out"; exit; fi
if [ "$name" = sum_10M ]; then echo 'what is that?'; exit 3; fi
echo 'a word to the reader'
echo "RESULT {\"name\":\"$name\",\"threads\":$threads,\"ms_median\":100,\"peak_rss_mib\":50}"]]

local function run(words) return sandbox.shell("$H -m bench " .. words) end

local function json(name) return core.json_decode(assert(sandbox.read(name))) end

before_each(function() sandbox.open { ["peer.sh"] = PEER } end)
after_each(sandbox.close)

it("all networks have their number of parameters and tensors, and cost what they should", function()
  local text, code = run "--describe"
  assert.are.equal(0, code, text)
  for _, line in ipairs {
    "seed_model: 377731 parameters in 8 tensors, GFLOP 197.80 forward, 592.50 a step",
    "unet32: 6472195 parameters in 244 tensors, GFLOP 50.80 forward, 152.34 a step",
    "unet32_tiny: 1253475 parameters in 166 tensors, GFLOP 18.11 forward, 54.28 a step",
    "sample32: 6472195 parameters in 244 tensors, GFLOP 50.80 forward, 1015.97 a step",
    "audio1d: 2623969 parameters in 182 tensors, GFLOP 53.25 forward, 159.70 a step",
    "text: 3406080 parameters in 58 tensors, GFLOP 28.46 forward, 85.38 a step",
  } do
    assert.is_not_nil(text:find(line, 1, true), line)
  end
end)

it("wrong words end with code 2 and say what is expected", function()
  for _, case in ipairs {
    { "--workload unet23", "did you mean 'unet32'" }, { "--child conv_1_2", "no workload 'conv_1_2'" },
    { "--threads 1,0", "got '0', expected 1 to 256" }, { "--threads ,", "has no value" },
    { "--gemm fast", "got 'fast', expected kernel, blas or both" },
    { "--verify --workload text --peer none", "needs a peer" },
  } do
    local text, code = run(case[1])
    assert.are.equal(2, code, case[1] .. ": " .. text)
    assert.is_not_nil(text:find(case[2], 1, true), text)
  end
end)

it("a workload alone is a record without a peer", function()
  local text, code = run "--workload unet_1_8_8 --seconds 0.1 --threads 1 --json out.json"
  assert.are.equal(0, code, text)
  local data = json "out.json"
  assert.are.equal(1, #data.results)
  local r = data.results[1]
  assert.are.equal("unet_1_8_8", r.name)
  assert.are.same({ 1, 3, 8, 8 }, r.config.shape)
  assert.is_true(r.ms_min <= r.ms_median and r.ms_min > 0 and r.n >= 10 and r.threads == 1 and r.peak_rss_mib > 1)
  assert.are.near(r.gflop_step / r.ms_median * 1e3, r.gflops_per_s, 0.6 * r.gflops_per_s) -- gflop_step is rounded
  assert.is_true(data.machine.measured[1].gflops_per_s > 0.1 and data.machine.measured[1].copy_256m > 0.01)
end)

it("one step is made and tells the peak of memory in KiB", function()
  local text, code = run "--child unet_1_8_8 --once --threads 1"
  assert.are.equal(0, code, text)
  assert.is_true(tonumber(text) > 1024)
end)

it("a round has each choice of products, then the peer; a convolution has three parts", function()
  local words = "--workload conv_1_2_2_4_3_1,startup_empty --rounds 1 --gemm kernel,blas --threads 1 --seconds 0.02"
  local text, code = run(words .. " --peer 'sh peer.sh' --json out.json")
  assert.are.equal(0, code, text)
  local order = {}
  for i, r in ipairs(json "out.json".results) do order[i] = ("%s %s %s"):format(r.side, r.name, r.gemm or "-") end
  assert.are.same({
    "hdlua conv_1_2_2_4_3_1/fwd kernel", "hdlua conv_1_2_2_4_3_1/bwd_data kernel",
    "hdlua conv_1_2_2_4_3_1/bwd_weight kernel", "hdlua conv_1_2_2_4_3_1/fwd blas",
    "hdlua conv_1_2_2_4_3_1/bwd_data blas", "hdlua conv_1_2_2_4_3_1/bwd_weight blas",
    "peer conv_1_2_2_4_3_1 -", "hdlua startup_empty -", "peer startup_empty -",
  }, order)
end)

it("an interrupted run goes on after its last result, and failures are told", function()
  local words = "--workload startup_empty,sum_10M --threads 1 --peer 'sh peer.sh' --json out.json"
  local text, code = run("--workload startup_empty --rounds 1 --threads 1 --peer 'sh peer.sh' --json out.json")
  assert.are.equal(0, code, text)
  local first = json "out.json".results
  text, code = run(words .. " --rounds 2 --resume --seconds 0.1")
  assert.are.equal(1, code)
  assert.matches("sum_10M of peer failed: what is that?", text, 1, true)
  local after = json "out.json"
  assert.are.same(first[1], after.results[1])
  local count = 0
  for _, r in ipairs(after.results) do count = count + (r.name == "startup_empty" and 1 or 0) end
  assert.are.equal(4, count) -- two sides, two rounds
  assert.are.equal(2, #after.table)
  local row = after.table[1]
  assert.are.near(100 / after.results[1].ms_median, row.ratio, row.ratio) -- the median of two rounds
  assert.are.equal(50, row.peer_mib)
  assert.is_nil(after.table[2].ratio)
end)

it("rows join rounds by the median of their own ratios", function()
  local results = {}
  local function add(side, round, ms, mib, gemm)
    results[#results + 1] = {
      name = "unet32", threads = 2, side = side, round = round, ms_median = ms, peak_rss_mib = mib, gemm = gemm,
      gflops_per_s = side == "hdlua" and 50 * round or nil,
    }
  end
  for round, ms in ipairs { 10, 40, 20 } do -- a machine whose speed changes: ratios are 3, 2 and 4
    add("hdlua", round, ms, 10, "kernel")
    add("hdlua", round, 2 * ms, 10, "blas")
    add("peer", round, ms * ({ 3, 2, 4 })[round], 40)
  end
  local rows = report.rows(results, { [2] = 200 }, { { name = "unet32", difference = 2e-7 } })
  assert.are.equal(2, #rows)
  local r = rows[1]
  assert.are.same({ "unet32", 2, "kernel", 20, 80, 3, 0.25, 0.5, 2e-7 },
    { r.workload, r.threads, r.gemm, r.ms, r.peer_ms, r.ratio, r.memory_share, r.peak_share,
      r.loss_difference })
  assert.are.same({ "blas", 40, 1.5 }, { rows[2].gemm, rows[2].ms, rows[2].ratio })
end)

it("a table has the columns that are needed, and three digits of milliseconds", function()
  assert.are.equal([[
| workload | threads |    ms | times faster |    goals | losses differ |
| -------- | ------: | ----: | -----------: | -------: | ------------: |
| a        |       1 |  1235 |              |          |               |
| long one |      16 | 0.123 |         3.10 | 2.2, 0.4 |         1e-07 |]],
    report.table {
      { workload = "a", threads = 1, ms = 1234.6 },
      { workload = "long one", threads = 16, ms = 0.1234, ratio = 3.1, goal_ratio = 2.2, goal_memory_share = 0.4,
        loss_difference = 1.4e-7 },
    })
end)

it("steps are timed until there are enough and time has gone by", function()
  local warm, timed, before = 0, 0, 0
  local function step(is_warmup)
    if is_warmup then warm = warm + 1 else timed = timed + 1 end
  end
  local times = timing.measure(step, 0, 1e9, function() before = before + 1 end)
  assert.are.same({ 3, 10, 13, 10 }, { warm, timed, before, #times })
  assert.are.equal(3, #timing.measure(step, 1e9, 0)) -- slow ones end with 3
  assert.are.equal(2.5, timing.median { 4, 1, 3, 2 })
  assert.are.equal(3, timing.median { 5, 1, 3 })
end)

it("multiply-adds are done by every thread", function()
  local before = core.threads()
  for _, threads in ipairs { 1, 3 } do
    core.threads(threads)
    local flops, sum = core.multiply_add(100)
    assert.are.near(24 * threads, sum, 1e-4)
    assert.are.equal(0, flops % (2 * 12 * 100 * threads))
  end
  core.threads(before)
end)

-- A file as the peer exports it: three steps of a small model, made here without models.step.
local function export(name, path)
  local w = models.find(name)
  local net = w.net()
  local out, losses = { data = w.kind.start(w) }, {}
  for key, x in next, net:state_dict() do out["weight." .. key] = x:clone() end -- order free: separate keys
  local optimizer = hd.optim.AdamW(net:parameters(), { lr = w.lr })
  for i = 1, 3 do
    local drawn = w.kind.draw(w)
    for key, x in next, drawn do out[("step.%d.%s"):format(i, key)] = x end -- order free: separate keys
    local loss = w.kind.loss(w, net, out.data, drawn)
    optimizer:zero_grad()
    loss:backward()
    optimizer:step()
    losses[i] = loss:item()
  end
  out.losses = hd.tensor(losses, { dtype = "f64" })
  assert(hd.save(path, out))
  return out
end

it("replay makes the steps of the peer again, and sees where a loss or a draw is another", function()
  local path = sandbox.path "exported.safetensors"
  local out = export("unet_1_8_8", path)
  local r = verify.replay("unet_1_8_8", path)
  assert.is_true(r.difference < 1e-6, r.difference)
  assert.are.same(out.losses:totable(), r.peer_losses)
  out.losses[3] = out.losses[3] * 1.001
  assert(hd.save(path, out))
  assert.are.near(1e-3, verify.replay("unet_1_8_8", path).difference, 1e-5)
  out["step.2.eps"]:mul_(1.1)
  assert(hd.save(path, out))
  local moved = verify.replay("unet_1_8_8", path)
  assert.are.equal(r.losses[1], moved.losses[1])
  assert.are_not.equal(r.losses[2], moved.losses[2])
  assert.is_true(verify.applies "text" and not verify.applies "sample32" and not verify.applies "startup")
end)

it("--verify prints both sides' losses and fails where they differ", function()
  local path = sandbox.path "exported.safetensors"
  local out = export("unet_1_8_8", path)
  local words = "--rounds 0 --verify --workload unet_1_8_8 --peer 'sh peer.sh' --threads 1 --json out.json"
  local text, code = run(words)
  assert.are.equal(0, code, text)
  local line = ("%.6f"):format(out.losses[1])
  assert.are.equal(2, select(2, text:gsub(line:gsub("%p", "%%%0"), "")), text)
  assert.is_true(json "out.json".verified[1].difference < 1e-6)
  out.losses[1] = out.losses[1] * 1.01
  assert(hd.save(path, out))
  text, code = run(words)
  assert.are.equal(1, code, text)
  assert.matches("differ by 9.9e-03 at most", text, 1, true)
  out.losses[2] = 0 / 0
  assert(hd.save(path, out))
  text, code = run(words)
  assert.are.equal(1, code, text)
  assert.matches("verifying unet_1_8_8 failed:.*step 2: losses are", text)
end)

it("the script that runs PyTorch says where there is none", function()
  local script = "sh " .. io.popen("pwd"):read "l" .. "/scripts/bench_peer.sh"
  local _, code = sandbox.shell("PYTHON=no_such_python " .. script .. " --check")
  assert.are.equal(1, code)
  local text
  text, code = sandbox.shell("PYTHON=no_such_python " .. script .. " --child text")
  assert.are.equal(1, code)
  assert.matches("--install installs it", text, 1, true)
  text, code = sandbox.shell("PYTHON=no_such_python $H -m bench --workload startup_empty --rounds 1 --threads 1")
  assert.are.equal(0, code, text)
  assert.matches("bench: no PyTorch beside it", text, 1, true)
  assert.matches("| startup_empty |       1 |", text, 1, true)
end)
