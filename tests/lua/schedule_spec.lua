-- tests/lua/schedule_spec.lua: noise schedules, predictions, weights.

local core = require "hd.core"
local schedule = require "hd.schedule"
local prediction, weight = schedule.prediction, schedule.weight

local function near(expected, got, tolerance)
  assert.is_true(math.abs(expected - got) <= (tolerance or 1e-9), ("got %.12g, expected %.12g"):format(got, expected))
end

local ALL = {
  linear = schedule.linear(), scaled_linear = schedule.scaled_linear(), cosine = schedule.cosine(),
  sigmoid = schedule.sigmoid(), karras = schedule.karras(), vp = schedule.vp(), ve = schedule.ve(),
  flow = schedule.flow(), shifted_flow = schedule.flow { shift = 3 },
}
local NAMES = { "linear", "scaled_linear", "cosine", "sigmoid", "karras", "vp", "ve", "flow", "shifted_flow" }

describe("discrete schedules", function()
  -- values of diffusers' DDPMScheduler(beta_schedule=...).alphas_cumprod, from its definitions in double precision
  it("linear: the running product of 1 - beta", function()
    local abar = ALL.linear:alphas_cumprod()
    assert.are.equal("f64", abar:dtype())
    near(1 - 1e-4, abar:get(1), 1e-15)
    near((1 - 1e-4) * (1 - (1e-4 + 0.0199 / 999)), abar:get(2), 1e-15)
    near(4.0358e-5, abar:get(1000), 1e-8)
  end)

  it("cosine: the squared cosine, with beta clipped at the end", function()
    local function f(t) return math.cos((t + 0.008) / 1.008 * math.pi / 2) ^ 2 end
    local abar = ALL.cosine:alphas_cumprod()
    near(f(0.5) / f(0), abar:get(500), 1e-12)
    near(abar:get(999) * 0.001, abar:get(1000), 1e-15)
  end)

  it("scaled_linear: even steps of sqrt(beta)", function()
    local b = ALL.scaled_linear.betas
    near(0.00085, b[1])
    near(0.012, b[1000])
    near(((math.sqrt(0.00085) * 499 + math.sqrt(0.012) * 500) / 999) ^ 2, b[501], 1e-12)
  end)

  it("zero_terminal_snr keeps the first step and ends in noise", function()
    local s = schedule.zero_terminal_snr(ALL.scaled_linear)
    local abar = s:alphas_cumprod()
    near(ALL.scaled_linear.products[1], abar:get(1), 1e-12)
    near(0, abar:get(1000), 1e-15)
    local alpha, sigma = s:alpha_sigma(1)
    assert.are.same({ 0.0, 1.0 }, { alpha, sigma })
  end)

  it("step i is time i / T", function()
    local alpha, sigma = ALL.linear:alpha_sigma(0.25)
    near(ALL.linear.products[250], alpha * alpha, 1e-12)
    near(1, alpha * alpha + sigma * sigma, 1e-12)
  end)

  it("visit the steps that diffusers visits", function()
    assert.are.same({ 1000, 750, 500, 250 }, ALL.linear:steps { steps = 4 })
    assert.are.same({ 751, 501, 251, 1 }, ALL.linear:steps { steps = 4, spacing = "leading" })
    assert.are.same({ 1000, 667, 334, 1 }, ALL.linear:steps { steps = 4, spacing = "linspace" })
  end)
end)

describe("all schedules", function()
  it("rise in noise, and find the time of a level again", function()
    for _, name in ipairs(NAMES) do
      local s, before = ALL[name], -1
      for _, t in ipairs { 0.01, 0.1, 0.37, 0.5, 0.9, 0.99 } do
        local level = s:level(t)
        assert.is_true(level > before, name)
        before = level
        near(t, s:time_of(level), 1e-9)
        near(t, s:time_of_logsnr(s:logsnr(t)), 1e-9)
        local alpha, sigma = s:alpha_sigma(t)
        near(level, sigma / alpha, 1e-9 * level)
      end
    end
  end)

  it("give steps + 1 falling numbers that end in 0", function()
    for _, name in ipairs(NAMES) do
      for _, rho in ipairs { 0, 7 } do
        local list = ALL[name]:sigmas { steps = 5, rho = rho > 0 and rho or nil }
        assert.are.equal(6, #list)
        assert.are.equal(0, list[6])
        for i = 1, 5 do assert.is_true(list[i] > list[i + 1] and list[i] < math.huge, name) end
      end
      assert.are.equal(2, #ALL[name]:sigmas { steps = 1 })
    end
  end)

  it("take lists and tensors of times", function()
    local alpha, sigma = ALL.vp:alpha_sigma { 0.2, 0.8 }
    assert.are.equal("f32", alpha:dtype())
    near(ALL.vp:level(0.8), sigma:get(2) / alpha:get(2), 1e-5 * ALL.vp:level(0.8))
    local a64 = ALL.vp:alpha_sigma(core.tensor({ 0.2, 0.8 }, { dtype = "f64" }))
    near((ALL.vp:alpha_sigma(0.2)), a64:get(1), 1e-15)
  end)

  it("shift multiplies the noise", function()
    for _, name in ipairs(NAMES) do
      local s = ALL[name]:shift(2)
      near(2 * ALL[name]:level(0.4), s:level(0.4), 1e-9)
      near(0.4, s:time_of(s:level(0.4)), 1e-9)
      near(ALL[name]:level(0.4), ALL[name]:level(0.4))
    end
  end)

  it("draw times that depend on the generator alone, in range", function()
    for _, name in ipairs(NAMES) do
      local a = ALL[name]:draw(64, { rng = core.rng(3) })
      assert.are.same(a, ALL[name]:draw(64, { rng = core.rng(3) }))
      for _, t in ipairs(a) do assert.is_true(t >= 0 and t <= 1, name) end
    end
    local t = ALL.vp:draw(10, { stratified = true })
    for i = 1, 10 do assert.is_true(t[i] >= (i - 1) / 10 and t[i] <= i / 10 + 1e-3) end
  end)
end)

it("karras is the grid of Karras et al., drawn normal in ln(sigma)", function()
  local list = ALL.karras:sigmas { steps = 18 }
  near(80, list[1], 1e-9)
  near(0.002, list[18], 1e-12)
  near((80 ^ (1 / 7) + 4 / 17 * (0.002 ^ (1 / 7) - 80 ^ (1 / 7))) ^ 7, list[5], 1e-9)
  local sum, square, n = 0, 0, 4000
  for _, t in ipairs(ALL.karras:draw(n, { rng = core.rng(1) })) do
    local l = math.log(ALL.karras:level(t))
    sum, square = sum + l, square + l * l
  end
  near(-1.2, sum / n, 0.06)
  near(1.2, math.sqrt(square / n - (sum / n) ^ 2), 0.06)
end)

it("flow is x = (1 - s) x0 + s eps with s = shift t / (1 + (shift - 1) t)", function()
  local alpha, sigma = ALL.shifted_flow:alpha_sigma(0.3)
  near(3 * 0.3 / (1 + 2 * 0.3), sigma, 1e-12)
  near(1, alpha + sigma, 1e-12)
end)

describe("predictions", function()
  local x0 = core.randn({ 2, 3 }, { dtype = "f64", rng = core.rng(1) })
  local eps = core.randn({ 2, 3 }, { dtype = "f64", rng = core.rng(2) })

  local function distance(a, b) return (a - b):abs():amax():item() end

  it("target and solve are inverse, for every schedule and kind", function()
    for _, name in ipairs(NAMES) do
      for _, t in ipairs { 0.02, 0.5, 0.97 } do
        local alpha, sigma = ALL[name]:alpha_sigma(t)
        local x = x0 * alpha + eps * sigma
        for _, kind in ipairs(prediction.kinds) do
          local F = prediction.target(kind, x0, eps, alpha, sigma)
          local a, b = prediction.solve(kind, F, x, alpha, sigma)
          assert.is_true(distance(a, x0) < 1e-9 * (1 + sigma / alpha), name .. " " .. kind)
          assert.is_true(distance(b, eps) < 1e-9 * (1 + alpha / sigma), name .. " " .. kind)
        end
      end
    end
  end)

  it("convert from each kind to each other", function()
    local alpha, sigma = core.tensor({ 0.8, 0.3 }, { dtype = "f64" }), core.tensor({ 0.6, 0.9 }, { dtype = "f64" })
    local x = x0 * alpha:view(2, 1) + eps * sigma:view(2, 1)
    for _, from in ipairs(prediction.kinds) do
      for _, to in ipairs(prediction.kinds) do
        local F = prediction.target(from, x0, eps, alpha, sigma)
        local got = prediction.convert(from, to, F, x, alpha, sigma)
        assert.is_true(distance(got, prediction.target(to, x0, eps, alpha, sigma)) < 1e-12, from .. " to " .. to)
      end
    end
  end)

  it("v and flow have their published signs", function()
    assert.is_true(distance(prediction.target("v", x0, eps, 0.8, 0.6), eps * 0.8 - x0 * 0.6) < 1e-15)
    assert.is_true(distance(prediction.target("flow", x0, eps, 0.8, 0.2), eps - x0) < 1e-15)
  end)

  it("edm is c_skip x + c_out F", function()
    local sigma, sd = 1.7, 0.5
    local x = x0 + eps * sigma
    local F = core.randn({ 2, 3 }, { dtype = "f64" })
    local c_skip, c_out = sd ^ 2 / (sigma ^ 2 + sd ^ 2), sigma * sd / math.sqrt(sigma ^ 2 + sd ^ 2)
    assert.is_true(distance(prediction.solve("edm", F, x, 1, sigma, sd), x * c_skip + F * c_out) < 1e-12)
    near(1 / math.sqrt(sigma ^ 2 + sd ^ 2), prediction.input_scale("edm", "ve", 1, sigma, sd))
  end)

  it("a denoiser hides schedule and prediction", function()
    for _, name in ipairs { "linear", "karras", "flow" } do
      for _, kind in ipairs { "eps", "v", "edm" } do
        local s = ALL[name]
        local level = s:level(0.6)
        local alpha, sigma = s:scales_of(level)
        local seen
        local function net(x, t)
          seen = { x, t }
          return prediction.target(kind, x0, eps, alpha, sigma)
        end
        local denoise = prediction.denoiser(net, { schedule = s, predict = kind })
        assert.is_true(distance(denoise(x0 + eps * level, level), x0) < 1e-8, name .. " " .. kind)
        near(s:time_input(0.6), seen[2], 1e-6)
      end
    end
  end)
end)

describe("weights", function()
  it("min_snr is min(snr, gamma), in the terms of each prediction", function()
    local w, alpha, sigma = weight.min_snr { gamma = 5 }, math.sqrt(0.9), math.sqrt(0.1)
    near(5, w("x0", alpha, sigma))
    near(5 / 9, w("eps", alpha, sigma), 1e-12)
    near(5 / 10, w("v", alpha, sigma), 1e-12)
    near(1, w("eps", sigma, alpha), 1e-12)
  end)

  it("snr is uniform for eps, edm for edm", function()
    near(1, weight.snr()("eps", 0.8, 0.6), 1e-12)
    near(1, weight.edm()("edm", 1, 3.3, 0.5), 1e-12)
    near(1, weight.uniform()("v", 0.8, 0.6))
  end)

  it("take one value per sample", function()
    local alpha, sigma = core.tensor { 0.8, 0.6 }, core.tensor { 0.6, 0.8 }
    local w = weight.soft_min_snr()("x0", alpha, sigma)
    local snr = (0.6 / 0.8) ^ 2
    near(5 * snr / (5 + snr), w:get(2), 1e-6)
    assert.are.same({ 1, 1 }, weight.uniform()("x0", alpha, sigma):totable())
  end)
end)
