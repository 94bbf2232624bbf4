-- Values that are not finite: anomaly mode names the operation that made the first one.

local hd = require "hd"
local core = require "hd.core"
local nn = hd.nn
local samples = dofile "tests/ops/samples.lua"

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
    print(("\ncount: NaN in results: %d of %d ops named; the results of the other %d are bool or integers"):format(named,
      #samples.list(), #without))
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
    print(("\ncount: NaN in gradients: %d of %d ops named"):format(named, count))
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
    assert.matches("mul: .*got %-inf.*inputs: f32 %[2,3%], no tensor; all", complaint(function() x:clone():mul_(1e38) end))
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
    assert.matches("conv2d: .*inputs: f32 %[1,8,9,9%], f32 %[8,8,3,3%], no tensor; input 1 was not", complaint(conv))
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
