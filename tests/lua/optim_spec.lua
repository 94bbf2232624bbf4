-- tests/lua/optim_spec.lua: optimizers against their formulas, averages, rates, clipping, state.

local core = require "hd.core"
local nn = require "hd.nn"
local optim = require "hd.optim"

local function near(expected, got, tolerance)
  assert.is_true(math.abs(expected - got) <= (tolerance or 1e-6), ("got %.9g, expected %.9g"):format(got, expected))
end

local function parameter(...) return nn.Parameter(core.tensor({ ... }, { dtype = "f64" })) end

-- One step with the given gradient.
local function step_with(opt, p, ...)
  p:set_grad(core.tensor({ ... }, { dtype = "f64" }))
  opt:step()
end

describe("Adam and AdamW", function()
  -- The published algorithm, for one number.
  local function reference(x, grads, o)
    local m, v = 0, 0
    for t, g in ipairs(grads) do
      if o.decoupled then x = x - o.lr * o.decay * x else g = g + o.decay * x end
      m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
      x = x - o.lr * (m / (1 - 0.9 ^ t)) / (math.sqrt(v / (1 - 0.999 ^ t)) + 1e-8)
    end
    return x
  end

  it("follow their formulas over steps", function()
    local grads = { 0.3, -1.2, 0.05, 2 }
    for _, name in ipairs { "Adam", "AdamW" } do
      local p = parameter(1.5, -0.2)
      local opt = optim[name]({ p }, { lr = 0.01, weight_decay = 0.1 })
      for _, g in ipairs(grads) do step_with(opt, p, g, g) end
      local o = { lr = 0.01, decay = 0.1, decoupled = name == "AdamW" }
      near(reference(1.5, grads, o), p:get(1), 1e-12)
      near(reference(-0.2, grads, o), p:get(2), 1e-12)
    end
  end)

  it("have PyTorch's weight decay by default", function()
    assert.are.equal(0.01, optim.AdamW({ parameter(1) }).groups[1].weight_decay)
    assert.are.equal(0, optim.Adam({ parameter(1) }).groups[1].weight_decay)
  end)

  it("leave parameters without gradient alone", function()
    local p, q = parameter(1), parameter(1)
    local opt = optim.AdamW({ p, q }, { lr = 0.1 })
    step_with(opt, p, 1)
    assert.is_true(p:get(1) ~= 1)
    assert.are.equal(1, q:get(1))
    opt:zero_grad()
    assert.is_nil(p:grad())
  end)

  it("take groups with settings of their own", function()
    local p, q = parameter(1), parameter(1)
    local opt = optim.Adam({ { params = { p } }, { params = { q }, lr = 0.5 } }, { lr = 0.1 })
    p:set_grad(core.ones({ 1 }, { dtype = "f64" }))
    q:set_grad(core.ones({ 1 }, { dtype = "f64" }))
    opt:step()
    near(0.9, p:get(1), 1e-6)
    near(0.5, q:get(1), 1e-6)
  end)

  it("go on from a saved state as if never stopped", function()
    local p, q = parameter(1, 2), parameter(1, 2)
    local one, two = optim.AdamW({ p }, { lr = 0.1 }), optim.AdamW({ q }, { lr = 0.3 })
    step_with(one, p, 1, -1)
    core.no_grad(function() q:copy_(p) end)
    two:load_state_dict(one:state_dict())
    step_with(one, p, 0.5, 2)
    step_with(two, q, 0.5, 2)
    assert.is_true(p:equal(q))
    assert.are.equal(0.1, two.groups[1].lr)
  end)

  it("refuse what is wrong", function()
    assert.matches("unknown option 'beta'%. did you mean 'betas'",
      select(2, pcall(optim.Adam, { parameter(1) }, { beta = 1 })))
    assert.matches("there are no parameters", select(2, pcall(optim.Adam, {})))
    assert.matches("expected 0 <= beta < 1", select(2, pcall(optim.Adam, { parameter(1) }, { betas = { 0.9, 1 } })))
    local big, small = optim.Adam { parameter(1), parameter(2) }, optim.Adam { parameter(1) }
    big:each(function() end)
    for _, p in ipairs(big.groups[1].params) do p:set_grad(core.ones({ 1 }, { dtype = "f64" })) end
    big:step()
    assert.matches("another model", select(2, pcall(small.load_state_dict, small, big:state_dict())))
  end)
end)

it("SGD follows its formula, with momentum and Nesterov's form", function()
  for _, nesterov in ipairs { false, true } do
    local p, x, m = parameter(2), 2, 0
    local opt = optim.SGD({ p }, { lr = 0.1, momentum = 0.9, nesterov = nesterov, weight_decay = 0.01 })
    for i, g in ipairs { 1, -0.5, 0.25 } do
      step_with(opt, p, g)
      g = g + 0.01 * x
      m = i == 1 and g or 0.9 * m + g
      x = x - 0.1 * (nesterov and g + 0.9 * m or m)
    end
    near(x, p:get(1), 1e-12)
  end
end)

describe("EMA", function()
  it("averages without warm-up as a = d a + (1 - d) p", function()
    local net = nn.Linear(1, 1, { bias = false }):to "f64"
    local ema, a = optim.EMA(net, { decay = 0.9, warmup = false }), net.weight:item()
    for i = 1, 3 do
      core.no_grad(function() net.weight:copy_(i) end)
      ema:update()
      a = 0.9 * a + 0.1 * i
    end
    near(a, ema.model.weight:item(), 1e-12)
    assert.is_false(ema.model.weight:requires_grad())
    assert.are.equal(3, net.weight:item())
  end)

  it("forgets the start with warm-up, and saves and loads", function()
    local net = nn.Linear(2, 2)
    local slow, warm = optim.EMA(net, { decay = 0.999, warmup = false }), optim.EMA(net, { decay = 0.999 })
    core.no_grad(function() net.weight:copy_(7) end)
    for _ = 1, 20 do slow:update(); warm:update() end
    assert.is_true(math.abs(warm.model.weight:get(1, 1) - 7) < 0.1)
    assert.is_true(math.abs(slow.model.weight:get(1, 1) - 7) > 1)
    local other = optim.EMA(net)
    other:load_state_dict(warm:state_dict())
    assert.are.equal(20, other.updates)
    assert.is_true(other.model.weight:equal(warm.model.weight))
  end)
end)

describe("clipping", function()
  it("scales all gradients to the common norm", function()
    local p, q = parameter(0, 0), parameter(0)
    p:set_grad(core.tensor({ 3, 0 }, { dtype = "f64" }))
    q:set_grad(core.tensor({ 4 }, { dtype = "f64" }))
    near(5, optim.clip_grad_norm_({ p, q }, 10), 1e-12)
    assert.are.equal(3, p:grad():get(1))
    near(5, optim.clip_grad_norm_({ p, q }, 1), 1e-12)
    near(0.6, p:grad():get(1), 1e-6)
    near(0.8, q:grad():get(1), 1e-6)
  end)

  it("limits values", function()
    local p = parameter(0, 0)
    p:set_grad(core.tensor({ 3, -0.1 }, { dtype = "f64" }))
    optim.clip_grad_value_({ p }, 1)
    assert.are.same({ 1, -0.1 }, p:grad():totable())
  end)
end)

describe("rates", function()
  local function rates(make, n)
    local opt = optim.SGD({ parameter(1) }, { lr = 2 })
    local sched, list = make(opt), {}
    for i = 1, n do
      list[i] = opt.groups[1].lr
      sched:step()
    end
    return list, sched
  end

  it("cosine warms up, falls along a cosine and stays at the end", function()
    local list = rates(function(opt) return optim.lr.cosine(opt, { steps = 12, warmup = 2, final = 0.1 }) end, 16)
    near(1, list[1])
    near(2, list[2])
    near(2, list[3])
    near(2 * (0.1 + 0.9 * 0.5), list[8])
    near(0.2, list[13])
    near(0.2, list[16])
  end)

  it("linear, constant and inverse_sqrt", function()
    near(1, rates(function(opt) return optim.lr.linear(opt, { steps = 10 }) end, 6)[6])
    near(0.5, rates(function(opt) return optim.lr.constant(opt, { warmup = 4 }) end, 1)[1])
    near(1, rates(function(opt) return optim.lr.inverse_sqrt(opt, { reference = 2 }) end, 9)[9])
  end)

  it("go on from a saved state", function()
    local make = function(opt) return optim.lr.linear(opt, { steps = 10 }) end
    local _, first = rates(make, 3)
    local _, second = rates(make, 1)
    second:load_state_dict(first:state_dict())
    near(first:rate(), second:rate())
  end)
end)
