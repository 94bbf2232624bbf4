-- hd.profile and `hdlua --profile`: rows that add up, FLOPs by formula, layers, ends of all sorts; hd.memory by kind.
-- Nothing here depends on how fast the machine is: times are compared with each other only.

local hd = require "hd"
local nn, F = hd.nn, hd.nn.functional

local hdlua = os.getenv "HDLUA" or "build/hdlua"

-- The rows of a report with this name and pass, of one layer or of all, as one.
local function total(report, name, pass, layer)
  local sum = { calls = 0, seconds = 0, flops = 0, bytes = 0 }
  for _, row in ipairs(report.rows) do
    if row.name == name and row.pass == pass and (layer == nil or row.layer == layer) then
      for key in pairs(sum) do sum[key] = sum[key] + row[key] end -- order free: separate keys
    end
  end
  return sum
end

describe("hd.profile", function()
  it("gives fn's results behind the report", function()
    local report, a, b, c = hd.profile(function(...) return 1, nil, ... end, "x")
    assert.are.same({ 1, nil, "x" }, { a, b, c })
    assert.is_true(#report.rows > 0)
  end)

  it("has rows that add up to the wall time, none of them negative", function()
    local before = hd.clock()
    local running = hd.profile()
    local inner = hd.clock()
    local x = hd.randn(64, 64)
    for _ = 1, 50 do x = (x:matmul(x)):tanh() end
    local work = hd.clock() - inner
    local report = running:stop()
    local outer = hd.clock() - before
    local sum = 0
    for _, row in ipairs(report.rows) do
      assert.is_true(row.seconds >= 0 and row.calls >= 0, row.name)
      sum = sum + row.seconds
    end
    assert.is_true(math.abs(sum - report.seconds) < 1e-6)
    assert.is_true(work <= sum and sum <= outer, ("%g <= %g <= %g"):format(work, sum, outer))
    assert.are.equal(50, total(report, "matmul", "forward").calls)
    assert.are.equal(50, total(report, "tanh", "forward").calls)
  end)

  it("counts a convolution by the direct formula, and of backward what was wanted", function()
    local x, w = hd.randn(2, 6, 9, 7):channels_last(), hd.randn(8, 3, 3, 2):requires_grad_()
    local opts = { stride = { 2, 1 }, padding = 1, groups = 2 }
    local report = hd.profile(function() F.conv2d(x, w, nil, opts):sum():backward() end)
    local flops = 2 * (2 * 8 * 5 * 8) * 3 * 3 * 2 -- 2 * outputs * inputs of each
    assert.are.equal(flops, total(report, "conv2d", "forward").flops)
    assert.are.equal(flops, total(report, "conv2d", "backward").flops) -- of w alone
    x:requires_grad_()
    report = hd.profile(function() F.conv2d(x, w, nil, opts):sum():backward() end)
    assert.are.equal(2 * flops, total(report, "conv2d", "backward").flops)
    assert.are.equal(4 * (x:numel() + w:numel() + 2 * 8 * 5 * 8), total(report, "conv2d", "forward").bytes)
  end)

  it("counts products, linear layers and attention", function()
    local a, b = hd.randn(3, 5, 7):requires_grad_(), hd.randn(7, 11):requires_grad_()
    local report = hd.profile(function() a:matmul(b):sum():backward() end)
    assert.are.equal(2 * 3 * 5 * 7 * 11, total(report, "matmul", "forward").flops)
    assert.are.equal(4 * 3 * 5 * 7 * 11, total(report, "matmul", "backward").flops)
    report = hd.profile(function() F.linear(a, hd.randn(4, 7)):sum():backward() end)
    assert.are.equal(2 * 15 * 7 * 4, total(report, "linear", "forward").flops)
    assert.are.equal(2 * 15 * 7 * 4, total(report, "linear", "backward").flops)
    local q, k, v = hd.randn(2, 3, 10, 8):requires_grad_(), hd.randn(2, 3, 12, 8), hd.randn(2, 3, 12, 6)
    report = hd.profile(function() F.scaled_dot_product_attention(q, k, v):sum():backward() end)
    local name, flops = "scaled_dot_product_attention", 2 * 2 * 3 * 10 * 12 * (8 + 6)
    assert.are.equal(flops, total(report, name, "forward").flops)
    assert.are.equal(2 * flops, total(report, name, "backward").flops)
  end)

  it("counts bytes of what is element-wise, a broadcast operand once", function()
    local x, row = hd.randn(100, 10), hd.randn(10)
    local report = hd.profile(function() return x + row end)
    assert.are.equal(4 * (1000 + 10 + 1000), total(report, "add", "forward").bytes)
    assert.are.equal(0, total(report, "add", "forward").flops)
  end)

  it("names layers by their path, and charges backward to the layer that recorded", function()
    local net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 1)))
    local function step() net(hd.randn(1, 3, 8, 8)):square():mean():backward() end
    local report
    for _ = 1, 2 do -- the second one starts anew, and knows the layers
      report = hd.profile(step)
      for _, layer in ipairs { "sequential[1]", "sequential[2][2]" } do
        for _, pass in ipairs { "forward", "backward" } do
          local conv, linear = total(report, "conv2d", pass, layer), total(report, "linear", pass, layer)
          assert.are.equal(1, conv.calls + linear.calls, layer .. " " .. pass)
        end
      end
      assert.are.equal(1, total(report, "group_norm", "backward", "sequential[2][1]").calls)
      step() -- not measured
    end
    assert.are.equal(1, total(report, "mean", "forward").calls)
    assert.is_nil((function()
      for _, row in ipairs(report.rows) do if row.name == "mean" then return row.layer end end
    end)())
  end)

  it("has rows for what is outside of operations", function()
    local w = nn.Parameter(hd.randn(50))
    local opt = hd.optim.AdamW({ w }, { lr = 1e-3 })
    local report = hd.profile(function()
      (w * hd.randn(50)):sum():backward()
      opt:step()
    end)
    for _, name in ipairs { "Lua", "random", "adam", "graph of backward", "profiling" } do
      assert.is_true(total(report, name, "outside").seconds > 0, name)
    end
    assert.are.equal(28 * 50, total(report, "adam", "outside").bytes)
  end)

  it("may run inside of another", function()
    local inner
    local outer = hd.profile(function()
      local x = hd.randn(4)
      inner = hd.profile(function() return x:exp() end)
      return x:exp()
    end)
    assert.are.equal(1, total(inner, "exp", "forward").calls)
    assert.are.equal(2, total(outer, "exp", "forward").calls)
  end)

  it("leaves errors as they are, and nothing running", function()
    assert.error_matches(function() hd.profile(function() error("of mine", 0) end) end, "^of mine$")
    assert.error_matches(function() hd.profile(3) end, "profile: fn")
    local report = hd.profile(function() return hd.randn(4):exp() end)
    assert.are.equal(1, total(report, "exp", "forward").calls)
    local running = hd.profile()
    running:stop()
    assert.error_matches(function() running:stop() end, "ended before")
  end)

  it("prints as two tables", function()
    local report = hd.profile(function() return nn.Linear(3, 4)(hd.randn(2, 3)) end)
    local text = tostring(report)
    for _, words in ipairs { "share", "GFLOP/s", "cores  operation", "cores  layer" } do
      assert.truthy(text:find(words, 1, true), words)
    end
  end)
end)

describe("hdlua --profile", function()
  -- What a script of one line prints to stderr, and its exit code.
  local function run(code, options, before)
    local path = os.tmpname()
    local _, _, status = os.execute(("%s %s %s -e '%s' >/dev/null 2>%s"):format(before or "", hdlua,
      options or "--profile", code, path))
    local file = assert(io.open(path))
    local text = file:read "a"
    file:close()
    os.remove(path)
    return text, status
  end

  local WORK = 'local hd = require "hd" local x = hd.randn(8, 8) x:matmul(x) '

  it("prints at the end of a script, of an error, of os.exit", function()
    for code, expected in pairs { [""] = 0, ["error(1)"] = 1, ["os.exit(7)"] = 7, ["os.exit(7, true)"] = 7 } do
      local text, status = run(WORK .. code)
      assert.are.equal(expected, status)
      assert.truthy(text:find("profile: %d.* s on %d+ thread"), code)
      assert.truthy(text:find("memory: peak", 1, true), code)
    end
  end)

  it("prints after Ctrl-C", function()
    -- The shell that os.execute starts goes on alone: while it runs, the signal would not be seen.
    local text, status = run(WORK .. 'os.execute("(sleep 0.2; kill -INT $PPID) &") for _ = 1, 1e12 do end',
      "--profile", "timeout 60")
    assert.are.equal(1, status)
    assert.truthy(text:find("interrupted!.*profile: %d"))
  end)

  it("is silent when it is off, and works without a tensor", function()
    assert.are.equal("", (run(WORK, "--threads 1")))
    assert.truthy(run("x = 1"):find("100.0 %% .* Lua\n"))
  end)
end)

describe("examples/profile.lua", function()
  it("profiles a step, a backward pass and the memory", function()
    local pipe = assert(io.popen(hdlua .. " --threads 2 examples/profile.lua --width 8 --batch 1 --steps 1"))
    local text = pipe:read "a"
    assert.is_true(pipe:close())
    local expected = { "conv2d backward", "one backward pass: %d", "costliest layer: unet%.", "activations +%d" }
    for _, words in ipairs(expected) do
      assert.truthy(text:find(words), words)
    end
  end)
end)

describe("hd.memory", function()
  local KIB = 1024

  it("tells what live memory is for, and what it was at the peak", function()
    local m = hd.memory()
    for _, pair in ipairs { { m.kinds, m.live }, { m.peak_kinds, m.peak } } do
      local sum = 0
      for _, bytes in pairs(pair[1]) do sum = sum + bytes end -- order free: a sum of integers
      assert.are.equal(pair[2], sum)
    end
  end)

  it("moves bytes from kind to kind as tensors change their use", function()
    collectgarbage()
    collectgarbage() -- what the first one finalized
    local function kinds() return hd.memory().kinds end
    local start = kinds()
    local function grown(kind) return (kinds()[kind] - start[kind]) // KIB // 16 * 16 end -- but for whole pages
    do
      local x = hd.randn(256, 256) -- 256 KiB
      assert.are.equal(256, grown "tensors")
      local w = nn.Parameter(hd.randn(256, 256))
      assert.are.equal(256, grown "parameters")
      local y = x * w -- both are saved
      assert.are.equal(256, grown "activations")
      assert.are.equal(256, grown "tensors") -- y
      y:sum():backward()
      assert.are.equal(0, grown "activations")
      assert.are.equal(512, grown "tensors")
      assert.are.equal(256, grown "gradients")
      local opt = hd.optim.Adam({ w }, { lr = 1e-3 })
      opt:step()
      assert.are.equal(512, grown "optimizer")
    end
    collectgarbage()
    collectgarbage()
    for _, kind in ipairs { "parameters", "gradients", "activations", "optimizer", "tensors" } do
      assert.are.equal(0, grown(kind), kind)
    end
  end)

  it("keeps the composition of the peak", function()
    collectgarbage()
    hd.reset_peak_memory()
    local before = hd.memory()
    do
      local w = nn.Parameter(hd.randn(1024, 1024)) -- 4 MiB
      local y = w:exp():square() -- 4 MiB saved, and the result
      assert.is_true(y:requires_grad())
    end
    collectgarbage()
    local after = hd.memory()
    assert.are.equal(4096, (after.peak_kinds.parameters - before.kinds.parameters) // KIB // 16 * 16) -- whole pages
    assert.is_true(after.peak_kinds.activations - before.kinds.activations >= 4 * KIB * KIB)
    assert.are.equal(before.kinds.parameters, after.kinds.parameters)
  end)
end)
