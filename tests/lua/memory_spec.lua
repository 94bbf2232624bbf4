-- Memory: budgets and their message, simulated failures (tests/memory), leaks, a heap that stays flat.
-- What needs a fresh process runs in one, under the program that HDLUA names.

local hd = require "hd"
local core = require "hd.core"

local rounds = require "tests.lua.rounds"

local hdlua = assert(os.getenv "HDLUA", "HDLUA is not set: run by tests/run.sh")
local folder -- a fresh one for each test

local MIB <const> = 1 << 20

-- What a shell command prints, and its exit code; $H is hdlua.
local function shell(command)
  local pipe = assert(io.popen(("H='%s'; cd '%s'; { %s\n} 2>&1"):format(hdlua, folder, command)))
  local text = pipe:read "a"
  local _, _, code = pipe:close()
  return text, code
end

-- A script in a process of its own.
local function run(options, script)
  local path = folder .. "/script.lua"
  local file = assert(io.open(path, "w"))
  file:write(script)
  file:close()
  return shell(("%s $H --threads 2 --view off %s script.lua %s"):format(options.prefix or "", options[1] or "",
    options.arguments or ""))
end

local function live()
  collectgarbage()
  collectgarbage()
  return hd.memory().live
end

-- Run fn with so many bytes more than are in use now.
local function with_limit(bytes, fn)
  local now = live()
  core.limit_memory(now + hd.memory().lua + bytes)
  local ok, message = pcall(fn)
  core.limit_memory()
  return ok, message
end

-- Limits of the address space say nothing where a sanitizer has reserved terabytes of it.
local function skip_where_reserved()
  local status <close> = assert(io.open "/proc/self/status")
  local kib = tonumber(status:read "a":match "VmSize:%s*(%d+)")
  if kib > 1 << 30 then pending "a sanitizer has reserved the address space" end
end

local function fail(n, count) core.fail_allocations("native", n, count or 1 << 60) end
local function stop_failing() return (core.fail_allocations "native") end

describe("memory", function()
  before_each(function()
    local pipe <close> = assert(io.popen "mktemp -d")
    folder = pipe:read "l"
    core.limit_memory()
  end)
  after_each(function()
    stop_failing()
    core.limit_memory()
    os.execute("rm -r '" .. folder .. "'")
  end)

  it("is counted, and its peak can be started again", function()
    local before = live()
    local x = hd.zeros(MIB)
    assert.is_true(hd.memory().live >= before + 4 * MIB)
    x:release()
    assert.is_true(hd.memory().peak >= before + 4 * MIB)
    hd.reset_peak_memory()
    assert.are.equal(hd.memory().live, hd.memory().peak)
    collectgarbage "stop"
    local allocations, lua = hd.memory().allocations, hd.memory().lua
    x = hd.zeros(1)
    local text = ("x"):rep(1000000)
    local now = hd.memory()
    collectgarbage "restart"
    assert.is_true(now.allocations > allocations)
    assert.is_true(now.lua >= lua + #text)
    assert.is_nil(hd.memory().budget)
    x:release()
  end)

  it("has a budget of what is available, another one, or none", function()
    local text = run({}, [[
      local budget = require "hd".memory().budget
      local available = tonumber(io.open "/proc/meminfo":read "a":match "MemAvailable:%s*(%d+)") * 1024
      print(budget > 1 << 20 and budget <= 0.95 * available and "fine" or budget) ]])
    assert.are.equal("fine\n", text)
    local print_budget = 'print(require "hd".memory().budget)'
    assert.are.equal("104857600\n", (run({ "--memory 100M" }, print_budget)))
    assert.are.equal("nil\n", (run({ "--memory off" }, print_budget)))
  end)

  it("has a budget within a limited address space", function()
    skip_where_reserved()
    local small = run({ prefix = "ulimit -v 2000000;" }, 'print(require "hd".memory().budget)') -- KiB
    assert.is_true(tonumber(small) < 0.9 * 2000000 * 1024, small)
  end)

  it("spent is an error that names what holds it", function()
    local x = hd.zeros(16, 8, 32, 32)
    local kept = {}
    local ok, message = with_limit(40 * MIB, function()
      for i = 1, 100 do kept[i] = i % 2 == 0 and x + 1 or hd.zeros(300, 300) end
    end)
    assert.is_false(ok)
    assert.truthy(message:find("^[^\n]*memory_spec.lua:%d+: [^\n]*: out of memory\n"), message)
    assert.truthy(message:find "wanted [%d.]+ [KM]iB; in use [%d.]+ MiB by tensors and [%d.]+ [KM]iB by Lua, limit ",
      message)
    local count, shape = message:match "largest: (%d+) x f32 (%[16,8,32,32%]) [%d.]+ MiB %(add%), %d+ x f32 %[300,"
    assert.are.equal("[16,8,32,32]", shape, message)
    local made = 0
    for i = 2, #kept, 2 do made = made + (kept[i] and 1 or 0) end
    assert.are.equal(made, tonumber(count), message)
    assert.truthy(message:find "hint: ", message)
  end)

  it("of dead tensors and of the cache is used again before an error", function()
    collectgarbage "stop"
    local ok, message = with_limit(30 * MIB, function()
      local x = hd.zeros(MIB)
      for _ = 1, 50 do x = x * 1 end -- each of 4 MiB, in a Lua heap that does not move
      hd.zeros(5 * MIB)
    end)
    collectgarbage "restart"
    assert.is_true(ok, message)
  end)

  it("limits Lua's own heap too", function()
    local text, code = run({ "--memory 60M" }, [[
      require "hd"
      local ok, message = pcall(function() local t = {} for i = 1, 1e9 do t[i] = { i } end end)
      print(ok, message) ]])
    assert.are.equal("false\tnot enough memory\n", text)
    assert.are.equal(0, code)
  end)

  it("that runs out in backward is collected there, and the gradients are those of plenty", function()
    local w = hd.randn({ 64, 64, 3, 3 }, { rng = hd.rng(1) }):requires_grad_()
    local x = hd.randn({ 2, 64, 16, 16 }, { rng = hd.rng(2) })
    local function gradient(n)
      w:set_grad(nil)
      local y = hd.nn.functional.conv2d(x, w, nil, { padding = 1 }):silu():mean()
      if n then fail(n, 1) end
      y:backward()
      return w:grad():clone()
    end
    local expected, n, refused = gradient(), 0
    repeat
      n = n + 1
      local g = gradient(n)
      refused = stop_failing()
      assert.is_true(g:equal(expected), "after the failure of number " .. n)
    until refused == 0
    assert.is_true(n > 10)
  end)

  it("that is spent in backward leaves inputs, gradients and the next sweep in order", function()
    local w, x = hd.randn(8, 4, 3, 3):requires_grad_(), hd.randn(2, 4, 6, 6):requires_grad_()
    local before, n, refused = x:detach():clone(), 0
    local function sweep()
      local y = (hd.nn.functional.conv2d(x, w, nil, { padding = 1 }):exp() * 0.1):sum()
      n = n + 1
      fail(n)
      local ok, message = pcall(y.backward, y)
      refused = stop_failing()
      assert.is_true(ok or message:find "out of memory" ~= nil, message)
      if not ok then
        ok, message = pcall(y.backward, y)
        assert.is_true(ok or message:find "swept before" ~= nil, message)
      end
    end
    w:set_grad(nil)
    x:set_grad(nil)
    ;(hd.nn.functional.conv2d(x, w, nil, { padding = 1 }):exp() * 0.1):sum():backward()
    local dw, dx = w:grad():clone(), x:grad():clone()
    repeat
      w:set_grad(nil)
      x:set_grad(nil)
      sweep()
      for leaf, whole in pairs { [w] = dw, [x] = dx } do
        assert.is_true(not leaf:grad() or leaf:grad():equal(whole), "a gradient in parts, number " .. n)
      end
      assert.is_true(x:detach():equal(before))
    until refused == 0
    assert.is_true(n > 10)
  end)

  it("that fails once lets an in-place operation happen once", function()
    local w = hd.tensor { 1, 2 }:requires_grad_()
    for _, name in ipairs { "exp_", "add_", "mul_" } do
      local n, refused = 0
      repeat
        n = n + 1
        local y = w * 1
        local expected = name == "exp_" and y:exp() or name == "add_" and y + 3 or y * 3
        fail(n, 1)
        local z = name == "exp_" and y:exp_() or y[name](y, 3)
        refused = stop_failing()
        assert.is_true(z:equal(expected), ("%s after the failure of number %d"):format(name, n))
      until refused == 0
    end
  end)

  it("missing while a file is read is not taken for a damaged file", function()
    local path = folder .. "/a.safetensors"
    assert(hd.save(path, { x = hd.zeros(3) }, { metadata = { a = "b" } }))
    local n, refused = 0
    repeat
      n = n + 1
      fail(n)
      local x, message = hd.load(path)
      refused = stop_failing()
      assert.is_true(x ~= nil or message:find "memory" ~= nil, message)
    until refused == 0
    assert.is_true(n > 10)
  end)

  -- Simulated failures ---------------------------------------------------------

  local seed = tonumber(os.getenv "HDLUA_SEED") or os.time()
  local tries = { native = { all = 24, one = 8 }, lua = { all = 16, one = 4 } }
  for _, heap in ipairs { "native", "lua" } do
    for _, how in ipairs { "all", "one" } do
      it(("that fails (%s heap, %s) is an error to catch, and nothing else"):format(heap, how), function()
        local n = rounds.times(tries[heap][how], 10 * tries[heap][how])
        local text = shell(("cd '%s' && $H --threads 2 --view off tests/memory/run.lua '%s' %s %s %d %d"):format(
          os.getenv "PWD", folder, heap, how, n, seed))
        local sum = text:match "@sum: ([^\n]*)"
        rounds.count("failing allocations, %s heap, %s, HDLUA_SEED=%d: %s", heap, how, seed, sum)
        assert.truthy(sum and sum:find(" 0 failed", 1, true), text)
        assert.is_true(tonumber(sum:match "^%d+") >= 20)
      end)
    end
  end

  -- After the end --------------------------------------------------------------

  it("is all given back when Lua closes, after every scenario and example", function()
    local root = os.getenv "PWD"
    local check = ("cd '%s' && HDLUA_CHECK_LEAKS=1 $H --threads 2 --view off "):format(root)
    local text, code = shell(("%s tests/memory/run.lua '%s' native all 1 1"):format(check, folder))
    assert.are.equal(0, code, text)
    local examples = {
      "denoise.lua --steps 2 --size 16 --batch 2 --out '" .. folder .. "/a.png'",
      "train_images.lua --data shapes --size 8 --width 8 --steps 3 --samples 2 --out '" .. folder .. "/run'",
      "sample_images.lua --model '" .. folder .. "/run/model.safetensors' --n 2 --out '" .. folder .. "/b.png'",
    }
    for _, example in ipairs(examples) do
      text, code = shell(check .. "examples/" .. example)
      assert.are.equal(0, code, text)
    end
  end)

  -- Over many steps ------------------------------------------------------------

  it("stays flat over many steps with 20 MiB of Lua's own", function()
    local steps = rounds.times(2000, 10000)
    local text, code = run({}, ([[
      local steps = %d
      local hd = require "hd"
      hd.threads(1)
      local ballast = {}
      for i = 1, 150000 do ballast[i] = { i, {} } end
      local function resident() -- KiB
        return 4 * tonumber(io.open "/proc/self/statm":read "a":match "^%%d+ (%%d+)")
      end
      local size, first = 1 << 18, nil -- temporaries of 1 MiB
      for step = 1, steps do
        local x = hd.zeros(size)
        for _ = 1, 10 do x = x + 1 end
        if step == steps // 2 then first = resident() end
      end
      local slope = (resident() - first) / (steps // 2)
      print(collectgarbage "count" / 1024 > 18, slope, hd.memory().peak / (1 << 20))
      assert(slope < 1, "resident memory rises")
      assert(hd.memory().peak < 300 << 20, "too many dead tensors")
    ]]):format(steps))
    assert.are.equal(0, code, text)
    rounds.count("flat memory: %d steps of 10 MiB: rises %s KiB a step, peak %s MiB", steps,
      text:match "^true\t(%S+)\t(%S+)")
  end)

  it("beyond the address space ends in our message, never in a signal", function()
    skip_where_reserved()
    local script = [[
      local hd = require "hd"
      hd.threads(1)
      local net = hd.nn.Sequential(hd.nn.Linear(100, 2000), hd.nn.SiLU(), hd.nn.Linear(2000, 100))
      local opt = hd.optim.AdamW(net:parameters())
      for batch = 1, tonumber(arg[1]) do
        local loss = net(hd.randn(batch * 1000, 100)):mean()
        opt:zero_grad()
        loss:backward()
        opt:step()
      end
      print(io.open "/proc/self/status":read "a":match "VmPeak:%s*(%d+)") ]]
    for _, budget in ipairs { "", "--memory off" } do -- without a budget the system refuses
      local need = tonumber((run({ arguments = "1" }, script)))
      local text, code = run({ budget, prefix = ("ulimit -v %d;"):format(need * 1.2 // 1), arguments = "40" }, script)
      assert.are.equal(1, code, text)
      assert.truthy(text:find "script.lua:%d+: [^\n]*out of memory\n  wanted", text)
    end
  end)
end)
