-- tests/lua/sampler_spec.lua: samplers against closed forms. For data N(0, c^2) the best denoiser is linear,
-- x c^2 / (c^2 + sigma^2), and a sample follows sqrt(c^2 + sigma^2) on its way down.

local core = require "hd.core"
local schedule = require "hd.schedule"
local sampler = require "hd.sampler"
local guidance = require "hd.guidance"

local c = 0.7
local function denoise(x, sigma) return x * (c * c / (c * c + sigma * sigma)) end

local function start(n, dtype, first)
  return core.randn({ n }, { dtype = dtype or "f64", rng = core.rng(4) }) * first
end

-- Relative error of a deterministic sampler with so many steps.
local function error_of(sample, steps)
  local sigmas = schedule.karras { sigma_max = 20 }:sigmas { steps = steps }
  local x = start(1, "f64", 20)
  local exact = x:item() * c / math.sqrt(c * c + 400)
  return math.abs(sample(denoise, x, sigmas):item() / exact - 1)
end

describe("deterministic samplers", function()
  it("come to the closed form, each with its order", function()
    for _, case in ipairs { { "euler", 1 }, { "ddim", 1 }, { "heun", 2 }, { "dpmpp_2m", 2 } } do
      local name, order = case[1], case[2]
      local coarse, fine = error_of(sampler[name], 40), error_of(sampler[name], 80)
      assert.is_true(fine < (order == 1 and 0.05 or 2e-3), ("%s: %g"):format(name, fine))
      assert.is_true(coarse / fine > 0.8 * 2 ^ order, ("%s: %g to %g"):format(name, coarse, fine))
    end
  end)

  it("ddim without eta is euler", function()
    local sigmas = schedule.cosine():sigmas { steps = 10 }
    local x = start(5, "f64", sigmas[1])
    local a, b = sampler.ddim(denoise, x, sigmas), sampler.euler(denoise, x, sigmas)
    assert.is_true((a - b):abs():amax():item() < 1e-9)
  end)

  it("keep the type of x and leave x as it is", function()
    for _, name in ipairs { "heun", "euler", "ddim", "ancestral", "dpmpp_2m" } do
      for _, dtype in ipairs { "f32", "f64" } do
        local x = start(3, dtype, 5)
        local before = x:clone()
        assert.are.equal(dtype, sampler[name](denoise, x, { 5, 1, 0 }):dtype())
        assert.is_true(x:equal(before))
      end
    end
  end)

  it("take plain arrays, start anywhere and may stop before 0", function()
    local x = start(2, "f64", 3)
    local half = sampler.heun(denoise, x, { 3, 2, 1 })
    assert.is_true(sampler.heun(denoise, half, { 1, 0.5, 0 }):equal(sampler.heun(denoise, x, { 3, 2, 1, 0.5, 0 })))
  end)

  it("hand each step to on_step, with tensors that live on", function()
    local seen = {}
    sampler.heun(denoise, start(2, "f64", 3), { 3, 1, 0 }, { on_step = function(s) seen[#seen + 1] = s end })
    assert.are.equal(2, #seen)
    assert.are.equal(1, seen[2].sigma)
    assert.is_true(seen[2].denoised:equal(denoise(seen[2].x, 1)))
  end)

  it("hand the condition on", function()
    local got
    sampler.euler(function(x, _, cond) got = cond return x end, start(1, "f64", 1), { 1, 0 }, { cond = "class 3" })
    assert.are.equal("class 3", got)
  end)
end)

describe("stochastic samplers", function()
  it("keep the variance of the data", function()
    local n, sigmas = 20000, schedule.karras { sigma_max = 20 }:sigmas { steps = 160 }
    for _, case in ipairs { { "ancestral", {} }, { "ddim", { eta = 1 } }, { "heun", { churn = 20 } } } do
      local name, opts = case[1], case[2]
      opts.rng = core.rng(9)
      local x = sampler[name](denoise, start(n, "f64", 20), sigmas, opts)
      assert.is_true(math.abs(math.sqrt(x:square():mean():item()) / c - 1) < 0.04, name)
    end
  end)

  it("depend on their generator alone", function()
    local function run(seed)
      core.randn(7) -- the default generator plays no part
      return sampler.ancestral(denoise, start(4, "f64", 5), { 5, 2, 1, 0 }, { rng = core.rng(seed) })
    end
    assert.is_true(run(1):equal(run(1)))
    assert.is_false(run(1):equal(run(2)))
  end)
end)

describe("discrete sampling", function()
  it("speaks 0-based times", function()
    assert.are.same({ 999, 749, 499, 249 }, sampler.discrete.timesteps(schedule.linear(), { steps = 4 }))
  end)

  it("is ddim on x / alpha", function()
    local s = schedule.linear()
    local abar = s.products[1000]
    local x = start(3, "f64", 1)
    local function net(x_t, t) -- eps of the best denoiser
      local alpha, sigma = math.sqrt(s.products[t + 1]), math.sqrt(1 - s.products[t + 1])
      return (x_t - denoise(x_t / alpha, sigma / alpha) * alpha) / sigma
    end
    local a = sampler.discrete.ddim(net, x, s, { steps = 20 })
    local b = sampler.ddim(denoise, x / math.sqrt(abar), s:sigmas { steps = 20 })
    assert.is_true((a - b):abs():amax():item() < 1e-10)
  end)

  it("clips x0 and works with the last step pure noise", function()
    local s = schedule.zero_terminal_snr(schedule.scaled_linear())
    local x = sampler.discrete.ddim(function(x) return x * -9 end, start(3, "f64", 1), s,
      { steps = 5, predict = "v", clip = 1 })
    assert.is_true(x:abs():amax():item() <= 1)
  end)
end)

it("guidance goes from the weak to the strong denoiser and beyond", function()
  local strong = function(x) return x * 0 + 2 end
  local weak = function(x) return x * 0 + 1 end
  local x = core.zeros(1)
  assert.are.equal(4, guidance.between(strong, weak, { scale = 3 })(x, 1):item())
  assert.are.equal(2, guidance.between(strong, weak, { scale = 3, s_max = 0.5 })(x, 1):item())
  local free = guidance.classifier_free(function(y, _, cond) return y + (cond or 0) end, { scale = 2 })
  assert.are.equal(10, free(x, 1, 5):item())
end)

it("wrong sigmas and options are refused", function()
  local x = core.zeros(1)
  local function message(...) return select(2, pcall(...)) end
  assert.matches("sigmas must fall: got 2 after 1", message(sampler.heun, denoise, x, { 1, 2, 0 }))
  assert.matches("expected at least 2", message(sampler.heun, denoise, x, { 1 }))
  assert.matches("did you mean 'churn'", message(sampler.heun, denoise, x, { 1, 0 }, { chrun = 1 }))
end)
