-- Errors as a script meets them: at its own line, with the layer's path; from callbacks and coroutines; error values
-- that are no strings. What was open is closed, what was set is set back, and the next operation works.

local hd = require "hd"
local core = require "hd.core"
local nn = hd.nn

local HERE = "^tests/lua/errors_spec.lua:%d+: "

-- Runs fn, which must fail; its error value.
local function error_of(fn, ...)
  local ok, problem = pcall(fn, ...)
  assert.is_false(ok)
  return problem
end

-- Are gradients recorded?
local function records() return (hd.ones(1):requires_grad_() * 2):requires_grad() end

local function works() return (hd.ones(2, 3):matmul(hd.ones(3, 2))):sum():item() == 12 end

local function thread_count()
  for line in io.lines "/proc/self/status" do
    local n = line:match "^Threads:%s*(%d+)"
    if n then return tonumber(n) end
  end
end

describe("an error", function()
  it("is at the script's line, with the path of the layer that failed", function()
    local net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.SiLU(), nn.Conv2d(8, 4, 3)))
    local line = debug.getinfo(1, "l").currentline + 1
    local message = error_of(function() net(hd.zeros(1, 3, 8, 8)) end)
    assert.matches(HERE .. "sequential%[2%]%[2%]: conv2d: channel count differs: got", message)
    assert.matches(":" .. line .. ": ", message)
  end)

  it("keeps its place in a coroutine, and leaves the others alone", function()
    local other = coroutine.wrap(function()
      local scope <close> = hd.scope()
      local x = hd.ones(2) * 2
      coroutine.yield()
      return scope:keep(x):sum():item()
    end)
    other()
    local failing = coroutine.create(function() return hd.zeros(2, 3):matmul(hd.zeros(2, 3)) end)
    local ok, message = coroutine.resume(failing)
    assert.is_false(ok)
    assert.matches(HERE .. "matmul: shapes do not fit: got %[2,3%] and %[2,3%]", message)
    assert.equal(4, other())
    assert.matches(HERE .. "zeros: ", error_of(coroutine.wrap(function() hd.zeros {} hd.zeros "x" end)))
  end)

  it("comes through no_grad as it is, whatever its value, and recording goes on", function()
    for _, value in ipairs { "text", 7, { code = 1 }, print, false } do
      assert.equal(value, error_of(hd.no_grad, function() error(value, 0) end))
      assert.is_true(records())
    end
    assert.is_nil(error_of(hd.no_grad, function() error() end))
    assert.is_true(records())
    error_of(function()
      local _ <close> = hd.no_grad()
      assert.is_false(records())
      error "in the block"
    end)
    assert.is_true(records())
    local asleep = coroutine.create(function() hd.no_grad(function() error "at the border" end) end)
    assert.is_false(coroutine.resume(asleep))
    assert.is_true(records())
  end)

  it("closes the scopes that it leaves", function()
    local lost
    error_of(function()
      local _ <close> = hd.scope()
      lost = hd.ones(2) * 2
      local _ <close> = hd.scope()
      error "inside two scopes"
    end)
    assert.matches("released at the end of the scope opened at tests/lua/errors_spec.lua", error_of(lost.sum, lost))
    local free = hd.ones(2) * 3
    assert.equal(6, free:sum():item())
  end)

  it("in a dropped scope that nobody closed leaves its tensors alone", function()
    local x
    do
      local _ = hd.scope()
      x = hd.ones(2) * 2
    end
    collectgarbage()
    collectgarbage()
    assert.equal(4, x:sum():item())
  end)

  it("in a transform reaches the loop, and the next batch comes", function()
    local calls = 0
    local set = hd.data.Set(core.full({ 4, 3, 2, 2 }, 7, { dtype = "u8" }))
    local batches = set:batches { size = 2, prefetch = 1, transform = function(x)
      calls = calls + 1
      if calls == 2 then error({ "no string" }) end
      return x
    end }
    assert.same({ 2, 3, 2, 2 }, batches():shape())
    assert.same({ "no string" }, error_of(batches))
    assert.same({ 2, 3, 2, 2 }, batches():shape())
    batches:close()
  end)

  it("in a layer written in Lua is at its own line", function()
    local net = nn.Sequential(nn.Linear(3, 3), function(x) return x.missing.field end)
    local message = error_of(net, hd.zeros(1, 3))
    assert.matches(HERE .. "attempt to index a nil value %(field 'missing'%)", message)
  end)

  it("in a callback at any of 100 steps of any sampler is the same; the next operation and step work", function()
    local sigmas = hd.schedule.karras {}:sigmas { steps = 100 }
    local x = hd.randn(2, 3) * sigmas[1]
    local function denoise(z) return z * 0.5 end
    local runs, threads = 0, nil
    for _, name in ipairs { "euler", "heun", "ddim", "ancestral", "dpmpp_2m" } do
      local whole = hd.sampler[name](denoise, x, sigmas, { rng = hd.rng(1) })
      threads = threads or thread_count()
      for at = 1, 100 do
        local problem = { at }
        assert.equal(problem, error_of(hd.sampler[name], denoise, x, sigmas, { rng = hd.rng(1), on_step = function(step)
          if step.i == at then error(problem) end
        end }))
        assert.is_true(records() and works())
        runs = runs + 1
      end
      local again = hd.sampler[name](denoise, x, sigmas, { rng = hd.rng(1) })
      assert.is_true(whole:equal(again))
    end
    assert.equal(500, runs)
    assert.equal(threads, thread_count())
  end)

  it("in what a sampler calls leaves no memory behind", function()
    local sigmas = hd.schedule.karras {}:sigmas { steps = 10 }
    local x = hd.randn(2, 3)
    local function held()
      collectgarbage()
      collectgarbage()
      return hd.memory().live
    end
    local before = held()
    for i = 1, 100 do
      local calls = 0
      error_of(hd.sampler.heun, function(z)
        calls = calls + 1
        if calls == i % 15 + 1 then error "denoise failed" end
        return z * 0.5
      end, x, sigmas)
    end
    assert.equal(before, held())
  end)

  it("in a step ends the loop of a run and closes its log", function()
    local folder = os.tmpname()
    os.remove(folder)
    error_of(function()
      local run <close> = assert(hd.run.new { out = folder, state = {} })
      for step in run:steps(function() end, 5) do
        if step == 3 then error "in step 3" end
      end
    end)
    local run <close> = assert(hd.run.new { out = folder, state = {}, resume = true })
    assert.is_nil(run:resume())
    os.execute("rm -rf " .. folder .. "*")
  end)

  it("of a wrong self says how methods are called", function()
    local opt = hd.optim.SGD(nn.Linear(2, 1):parameters(), { lr = 0.1 })
    local message = error_of(function() opt.step() end)
    assert.matches(HERE .. "SGD:step: called on a wrong object: got nil.*object:step", message)
  end)

  it("of the operators on bools and floats names types, where it once crashed", function()
    local bools = hd.ones(3, { dtype = "bool" })
    assert.matches("clamp: wrong type: got bool, expected numbers", error_of(bools.clamp, bools, 0, 1))
    assert.matches("logical_and: wrong type: got f32, expected bool", error_of(hd.ones(2).logical_and, hd.ones(2), 1.5))
    assert.equal("i64", (bools + bools):dtype())
    assert.equal(6, (bools + bools):sum():item())
    assert.matches("add: argument 'x' has the wrong type", error_of(getmetatable(bools).__add, 2, 3))
    local deep = hd.ones(1, 1, 1, 1, 1, 1, 1, 2, { dtype = "i64" })
    assert.matches("embedding: index has too many dimensions", error_of(core.op.embedding, deep, hd.ones(3, 2)))
    assert.matches("pad: too wide: got 0 and 9223372036854775807 for dimension 1, expected at most %d+",
      error_of(hd.nn.functional.pad, hd.ones(4), { 0, math.maxinteger }))
    assert.matches("reshape: too many elements",
      error_of(hd.ones(4).reshape, hd.ones(4), 2 ^ 32, 2 ^ 32, 2, 2))
    assert.matches("too many elements: got shape %[0,1152921504606846976,48%]",
      error_of(hd.zeros, { 0, 1 << 60, 48 }))
    assert.matches("too many elements", error_of(function() return hd.ones(1, 1):expand(1 << 40, 1 << 40) end))
  end)
end)

describe("a state", function()
  it("goes from a file with texts straight into a model", function()
    local path = os.tmpname() .. ".safetensors"
    local net = nn.Linear(2, 1)
    assert(hd.save(path, net:state_dict(), { metadata = { format = "pt" } }))
    net:load_state_dict(assert(hd.load(path)))
    os.remove(path)
  end)
end)
