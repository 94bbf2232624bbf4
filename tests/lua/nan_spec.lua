-- Values that are not finite: anomaly mode names the operation that made the first one, and a run stops, skips or goes
-- back (on_nan of hd.run.new) before an optimizer has taken them in.

local hd = require "hd"
local core = require "hd.core"
local nn = hd.nn
local rounds = require "tests.lua.rounds"
local samples = dofile "tests/ops/samples.lua"

hd.threads(1) -- tiny tensors, and the machine may be busy

-- The message of fn's error, in anomaly mode; nil where there is none.
local function complaint(fn)
  local fine, message = pcall(hd.detect_anomaly, fn)
  return not fine and message or nil
end

-- The first case whose result can hold a NaN (and has a gradient); nil where there is none.
local function floating_case(op, wants_gradient)
  for _, case in ipairs(samples.ops[op.name]) do
    local y = samples.call(op, case, samples.build(case, "f32"))
    if samples.is_float(y) and y:numel() > 0 and not (wants_gradient and case.grad == false) then return case end
  end
end

-- The op in a layer, behind another op.
local Layer = nn.Module:extend "Layer"
function Layer:init(op, case) self.op, self.case = op, case end
function Layer:forward(args, floats)
  for _, place in ipairs(floats) do place.holder[place.key] = place.holder[place.key] / 1 end
  local y = samples.call(self.op, self.case, args)
  return y
end

-- Ops that stand behind the one that is tested, where it is not one of them itself.
local AFTER = { mul = true, exp = true, sum = true }

-- Train on the op with a NaN planted in its result or gradient; what anomaly mode says.
local function plant(op, case, backward)
  local args, floats = samples.build(case, "f32")
  if backward then
    for _, place in ipairs(floats) do place.holder[place.key]:requires_grad_() end
  end
  core.plant_nan(op.name, backward)
  local message = complaint(function()
    local y = Layer(op, case)(args, floats)
    y = AFTER[op.name] and (y + 1):tanh():mean() or (y * 2):exp():sum()
    if backward then y:backward() end
  end)
  core.plant_nan()
  return message
end

describe("anomaly mode", function()
  it("names each op of the list when a NaN is planted in its result", function()
    local named, without, wrong = 0, {}, {}
    for _, op in ipairs(samples.list()) do
      local case = floating_case(op)
      local message = case and plant(op, case, false)
      if not case then
        without[#without + 1] = op.name
      elseif message and message:find("layer: " .. op.name .. ": the result is not finite: got nan", 1, true) then
        named = named + 1
      else
        wrong[#wrong + 1] = op.name .. ": " .. tostring(message)
      end
    end
    rounds.count("NaN in results: %d of %d ops named; results of the other %d are bool or integers", named,
      #samples.list(), #without)
    assert.same({}, wrong)
    assert.equal(#samples.list(), named + #without)
    for _, name in ipairs(without) do assert.is_nil(name:find "conv" or name:find "norm" or name:find "linear") end
    assert(named >= 80)
  end)

  it("names each op and its line when a NaN is planted in its gradient", function()
    local named, count, wrong = 0, 0, {}
    for _, op in ipairs(samples.list()) do
      local case = op.backward and floating_case(op, true)
      if case then
        count = count + 1
        local message = plant(op, case, true)
        local expected = ("^tests/lua/nan_spec.lua:%%d+: backward of %s: the gradient of input %%d is not finite: got "
          .. "nan.*\n  %s was called at tests/[%%w/_]+.lua:%%d+: layer\n"):format(op.name, op.name)
        if message and message:find(expected) then
          named = named + 1
        else
          wrong[#wrong + 1] = op.name .. ": " .. tostring(message)
        end
      end
    end
    rounds.count("NaN in gradients: %d of %d ops named", named, count)
    assert.same({}, wrong)
    assert(count >= 70)
  end)

  it("names ops that overflow or leave their domain, with place, shapes and inputs", function()
    local x = hd.tensor { { 1, 2, 3 }, { -4, 5, 90 } }
    local at = debug.getinfo(1, "l").currentline + 1
    local text = complaint(function() return x:log() end)
    assert.equal(("tests/lua/nan_spec.lua:%d: log: the result is not finite: got nan at [2,1] (1 of 6 values) of "
      .. "f32 [2,3], expected finite values\n  inputs: f32 [2,3]; all of them were finite"):format(at), text)
    assert.matches("exp: .*got inf at %[2,3%] %(1 of 6", complaint(function() return x:exp() end))
    assert.matches("div: .*got %-inf at %[1,1%] %(6 of 6", complaint(function() return -x:abs():flip(1) / 0 end))
    assert.matches("mul: .*got %-inf.*inputs: f32 %[2,3%], no tensor; all",
      complaint(function() x:clone():mul_(1e38) end))
  end)

  it("names the line of the op whose gradient is not finite", function()
    local w = hd.zeros(3):requires_grad_()
    local at
    local text = complaint(function()
      at = debug.getinfo(1, "l").currentline + 1
      local y = w:sqrt()
      y:sum():backward()
    end)
    assert.equal(("tests/lua/nan_spec.lua:%d: backward of sqrt: the gradient of input 1 is not finite: got inf at [1] "
      .. "(3 of 3 values) of f32 [3], expected finite values\n  sqrt was called at tests/lua/nan_spec.lua:%d\n"
      .. "  inputs: f32 [3]; they and the gradient of the result were finite"):format(at + 1, at), text)
  end)

  it("tells which input was not finite before", function()
    local x, w = hd.ones(1, 8, 9, 9), hd.randn(8, 8, 3, 3)
    x:set(1, 3, 5, 5, 0 / 0) -- spreads over a tile
    local function conv() return nn.functional.conv2d(x, w, nil, { padding = 1 }) end
    assert.matches("conv2d: .*inputs: f32 %[1,8,9,9%], f32 %[8,8,3,3%]; input 1 was not", complaint(conv))
    local y = hd.ones(2)
    y[2] = math.huge
    assert.matches("sub: .*got nan at %[2%].*; input 1 was", complaint(function() return y - y end))
    assert.matches("sub: .*; input 1 was", complaint(function() y:clone():sub_(y) end))
    assert.matches("mul: .*; input 2 was", complaint(function() return hd.zeros(2) * y end))
  end)

  it("lets infinities pass that were given, as in masks", function()
    local scores = hd.randn(4, 4)
    assert.is_nil(complaint(function()
      local masked = scores:masked_fill(hd.eye(4):lt(0.5), -math.huge)
      return (masked + 1):softmax(2), scores:clamp(-math.huge, 0)
    end))
  end)

  it("is on for a function or a block, whatever happens there", function()
    local function goes() return (pcall(function() return (hd.zeros(1) - 1):log() end)) end
    assert.is_true(goes())
    assert.same({ 1, 2 }, { hd.detect_anomaly(function(...) return ... end, 1, 2) })
    pcall(hd.detect_anomaly, function() error "x" end)
    assert.is_true(goes())
    do
      local _ <close> = hd.detect_anomaly()
      assert.is_false(goes())
      local _ <close> = hd.no_grad()
      assert.is_false(goes())
    end
    assert.is_true(goes())
  end)

  it("is on for a whole script by --anomaly", function()
    local command = [[%s %s -e 'local hd = require "hd"; local x = (hd.zeros(1) - 1):log() print "done"' 2>&1]]
    local function run(option) return io.popen(command:format(os.getenv "HDLUA" or "build/hdlua", option)):read "a" end
    assert.equal("done\n", run "")
    assert.matches("%(command line%):1: log: the result is not finite: got nan, expected", run "--anomaly")
  end)
end)

-- Runs ------------------------------------------------------------------------------------------------------------

-- Batches without end that depend on their number alone; those in `bad` hold that value in one place.
local function stream(bad)
  return setmetatable({
    position = 0,
    state_dict = function(self) return { position = self.position } end,
    load_state_dict = function(self, state) self.position = state.position end,
  }, { __call = function(self)
    repeat self.position = self.position + 1 until not (bad.without and bad[self.position])
    local x = hd.randn({ 4, 3 }, { rng = hd.rng(self.position) })
    if bad[self.position] then x:set(2, 3, bad[self.position]) end
    return x, hd.ones(4)
  end })
end

local folder
local OPTIONS = { out = true, resume = true, save_every = true, on_nan = true }

-- Train a small net; o: options of hd.run.new and bad, steps, stop_at, clip, extra = fn(loss, net, step) -> loss.
-- Gives a table: net, opt, ema, run, said (what the run printed), and fine and message of the loop.
local function train(o)
  hd.seed(1)
  local t = { said = {} }
  t.net = nn.Sequential(nn.Linear(3, 5), nn.SiLU(), nn.Linear(5, 3))
  t.opt = hd.optim.AdamW(t.net:parameters(), { lr = 1e-2 })
  t.ema = hd.optim.EMA(t.net)
  t.rate = hd.optim.lr.cosine(t.opt, { steps = o.steps, warmup = 3 })
  local options = { state = { net = t.net, opt = t.opt, ema = t.ema, rate = t.rate } }
  for name in pairs(OPTIONS) do options[name] = o[name] end -- order free: separate keys
  options.out = o.out or folder .. "/r"
  local run <close> = assert(hd.run.new(options))
  t.run = run
  function run.say(_, text) t.said[#t.said + 1] = text end
  t.fine, t.message = pcall(function()
    for step, x in run:steps(stream(o.bad or {}), o.steps, { stop_at = o.stop_at }) do
      local loss = ((t.net(x) - hd.randn { 4, 3 }) ^ 2):mean()
      if o.extra then loss = o.extra(loss, t.net, step) end
      t.opt:zero_grad()
      loss:backward()
      if o.clip then hd.optim.clip_grad_norm_(t.net:parameters(), 1) end
      t.line = debug.getinfo(1, "l").currentline + 1
      t.opt:step()
      t.ema:update()
      t.rate:step()
      run:log { loss = loss }
    end
  end)
  return t
end

-- The values of a training that a checkpoint would hold, as one text.
local function bits(t)
  local list = {}
  for _, object in ipairs { t.net, t.opt, t.ema } do
    local state, names = object:state_dict(), {}
    for name in pairs(state) do -- order free: sorted below
      if not name:find "%.lr$" then names[#names + 1] = name end -- a skipped step has its rate, too
    end
    table.sort(names)
    for _, name in ipairs(names) do
      for _, v in ipairs(state[name]:clone():reshape(-1):totable()) do list[#list + 1] = ("%a"):format(v) end
    end
  end
  return table.concat(list, " ")
end

local function count_events(name, out)
  local n = 0
  for entry in require "hd.run.log".entries((out or folder .. "/r") .. "/log.jsonl") do
    n = n + (entry.event == name and 1 or 0)
  end
  return n
end

describe("a run", function()
  before_each(function() folder = io.popen("mktemp -d"):read "l" end)
  after_each(function() os.execute("rm -rf " .. folder) end)

  it("stops at the step whose data is not finite, with everything that is needed to go on", function()
    local stopped = 0
    for step = 1, 8 do
      for name, value in pairs { inf = math.huge, less = -math.huge, nan = 0 / 0 } do -- order free: separate folders
        local out = ("%s/%s%d"):format(folder, name, step)
        local before = train { out = out .. "w", steps = 12, stop_at = step - 1 }
        local t = train { out = out, steps = 12, bad = { [step] = value }, save_every = 0 }
        assert.is_false(t.fine)
        assert.matches(("^tests/lua/nan_spec.lua:%d: run: step %d is not finite: got "):format(t.line, step), t.message)
        assert.is_true(bits(before) == bits(t))
        local saved = assert(hd.load(("%s/nan_step_%06d.safetensors"):format(out, step)))
        assert.equal(step - 1, saved["run/step"]:item())
        assert.equal(tostring(value):gsub("-?nan", "nan"), tostring(saved["batch/x"]:get(2, 3)):gsub("-?nan", "nan"))
        assert.same({ 4 }, saved["batch/labels"]:shape())
        assert.equal(step > 1, t.message:find(("checkpoint is of step %d:"):format(step - 1), 1, true) ~= nil)
        local again = train { out = out, steps = 12, resume = true }
        assert(again.fine and again.run.step == 12, again.message)
        stopped = stopped + 1
      end
    end
    rounds.count("data that is not finite: %d of 24 runs stopped at its step and went on", stopped)
    assert.equal(24, stopped)
  end)

  it("tells the loss, the norm, the parameters and what to do", function()
    local t = train { steps = 20, bad = { [7] = math.huge }, save_every = 0 }
    local text = t.message:gsub(folder, "F")
    assert.equal(([[
tests/lua/nan_spec.lua:%d: run: step 7 is not finite: got loss nan and gradient norm nan, expected finite numbers
  gradients of 4 parameters are not finite: net.0.weight, net.0.bias, net.2.weight ...
  nothing was changed; state and batch are in 'F/r/nan_step_000007.safetensors'
  the last checkpoint is of step 6: 'F/r/checkpoint.safetensors'
  hint: `hdlua --anomaly SCRIPT --resume` names the operation that makes it;
  lower the rate, clip the gradients, or go on by hd.run.new { on_nan = "skip" or "rollback" }]]):format(t.line), text)
    assert.equal(1, count_events "stop")
  end)

  it("sees a loss or a gradient alone that is not finite, clipped or not", function()
    for _, clip in ipairs { false, true } do
      local out = folder .. "/" .. tostring(clip)
      local t = train { steps = 9, clip = clip, out = out .. "loss", extra = function(loss, _, step)
        return loss + (step == 4 and math.huge or 0)
      end }
      assert.matches("step 4 is not finite: got loss inf and gradient norm [%d.]+,", t.message)
      t = train { steps = 9, clip = clip, out = out .. "norm", extra = function(loss, net, step)
        return step == 5 and loss + (net[3].bias * 0):sqrt():sum() or loss
      end }
      assert.matches("step 5 is not finite: got loss [%d.]+ and gradient norm %-?[naif]+,", t.message)
      assert.matches("gradients of 1 parameters are not finite: net%.2%.bias\n", t.message)
    end
  end)

  it("skips steps, the same bits with and without a stop between", function()
    local bad = { [3] = 0 / 0, [4] = math.huge, [9] = 0 / 0 }
    local whole = train { steps = 14, bad = bad, on_nan = "skip" }
    assert(whole.fine, whole.message)
    assert.equal(14, whole.run.step)
    assert.equal(3, count_events "skip")
    assert.matches("step 4 is not finite: got loss nan and gradient norm nan: it is skipped", whole.said[2])
    for _, at in ipairs { 2, 3, 4, 11 } do
      local out = folder .. "/" .. at
      train { out = out, steps = 14, bad = bad, on_nan = "skip", stop_at = at }
      local t = train { out = out, steps = 14, bad = bad, on_nan = "skip", resume = true }
      assert(t.fine, t.message)
      assert.is_true(bits(whole) == bits(t))
      assert.equal(3, t.run.guard.skipped)
    end
    local before, after = train { out = folder .. "/b", steps = 14, bad = bad, on_nan = "skip", stop_at = 2 },
      train { out = folder .. "/a", steps = 14, bad = bad, on_nan = "skip", stop_at = 4 }
    assert.is_true(bits(before) == bits(after))
  end)

  it("stops at the tenth step in a row that it would skip, resumed or not", function()
    local bad = {}
    for step = 3, 30 do bad[step] = 0 / 0 end
    local t = train { steps = 30, bad = bad, on_nan = "skip", stop_at = 8 }
    assert(t.fine, t.message)
    t = train { steps = 30, bad = bad, on_nan = "skip", resume = true }
    assert.matches("step 12 is not finite, the 10th in a row: got loss nan", t.message)
  end)

  it("goes back to the last checkpoint, and past the batch", function()
    local zero = function(loss, net) return loss * 0 + (net(hd.ones(1, 3)) ^ 2):mean() end
    local bad = { [7] = 0 / 0 }
    local reference = train { out = folder .. "/w", steps = 12, bad = { [7] = 1, without = true }, extra = zero }
    local t = train { steps = 12, bad = bad, on_nan = "rollback", save_every = 0, extra = zero }
    assert(reference.fine and t.fine, t.message)
    assert.is_true(bits(reference) == bits(t))
    assert.equal(12, t.run.step)
    assert.equal(13, t.run.batches.position)
    assert.equal(1, count_events "rollback")
    assert.matches("step 7 is not finite.*going back", t.said[1])
    assert.equal("run: back at step 6", t.said[2])
  end)

  it("goes back to the first step where nothing else was saved, and stops at the third time", function()
    local t = train { steps = 12, bad = { [5] = 0 / 0 }, on_nan = "rollback" }
    assert(t.fine, t.message)
    assert.equal("run: back at step 0", t.said[2])
    assert.equal(17, t.run.batches.position)
    local bad = { [2] = 0 / 0, [6] = 0 / 0, [9] = 0 / 0 }
    t = train { out = folder .. "/three", steps = 12, bad = bad, on_nan = "rollback" }
    assert.matches("is not finite, 3 times within 128 steps: got loss nan", t.message)
  end)

  it("does not meet the batch again that it went back from, when it is resumed", function()
    local bad = { [5] = 0 / 0 }
    local whole = train { out = folder .. "/w", steps = 12, bad = bad, on_nan = "rollback" }
    local calls = 0
    local t = train { steps = 12, bad = bad, on_nan = "rollback", extra = function(loss)
      calls = calls + 1
      return calls < 8 and loss or error "killed"
    end }
    assert.matches("killed", t.message)
    t = train { steps = 12, bad = bad, on_nan = "rollback", resume = true }
    assert(t.fine, t.message)
    assert.is_nil(table.concat(t.said, "\n"):find "going back")
    assert.is_true(bits(whole) == bits(t))
  end)

  it("tells of outliers once, and does nothing about them", function()
    local function spike(loss, _, step) return step > 140 and loss * 1e3 or loss end
    local t = train { steps = 145, extra = spike }
    assert(t.fine, t.message)
    assert.equal(1, #t.said)
    assert.matches("^run: step 141: the loss is %d.+, %d+%.%d standard deviations above the mean of the last 128 steps",
      t.said[1])
  end)

  it("leaves optimizers alone that are not in its state, and all of them when its loop is over", function()
    local x = hd.ones(2):requires_grad_()
    local opt = hd.optim.SGD({ x }, { lr = 1 })
    train { steps = 2, extra = function(loss)
      (x * (0 / 0)):sum():backward()
      opt:step()
      core.backward_value()
      return loss
    end }
    assert.is_true(x:get(1) ~= x:get(1))
    local t = train { steps = 9, bad = { [2] = 0 / 0 } }
    for _, p in ipairs(t.net:parameters()) do p:set_grad(hd.full(p:shape(), 0 / 0)) end
    t.opt:step()
    assert.is_true(t.net[1].bias:get(1) ~= t.net[1].bias:get(1))
  end)

  it("refuses an unknown policy", function()
    local fine, message = pcall(hd.run.new, { out = folder .. "/r", on_nan = "ignore" })
    assert.is_false(fine)
    assert.matches("run.new: on_nan is wrong: got 'ignore', expected 'stop', 'skip' or 'rollback'", message, 1, true)
  end)
end)

describe("the norm that clip_grad_norm_ measured", function()
  it("is known until the next backward", function()
    local measured = require "hd.optim.clip".measured
    local x, y = hd.ones(2):requires_grad_(), hd.ones(2):requires_grad_()
    local function backward() (x * y * 3):sum():backward() end
    backward()
    assert.is_nil(measured { x, y })
    local norm = hd.optim.clip_grad_norm_({ x, y }, 1)
    assert.equal(6, norm)
    assert.equal(6, measured { x, y })
    assert.is_nil(measured { x })
    assert.is_nil(measured { y, x })
    backward()
    assert.is_nil(measured { x, y })
  end)
end)
