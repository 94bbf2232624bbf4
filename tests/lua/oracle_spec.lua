-- tests/lua/oracle_spec.lua: hierarchies on Gaussian data, where the best denoiser is linear and known. A sampling run
-- is then a linear map of the noise: a batch of unit vectors gives its matrix M, the samples have the covariance M M',
-- and its Kullback-Leibler divergence from the data's is the sampler's error, exactly. No training, no chance.
-- The constants are those of the exact propagation of covariances for the same data and steps
-- (power law spectra 1 / f^alpha on 64 positions, EDM's 18 steps from 80 to 0.002, rho 7), to four digits.

local core = require "hd.core"
local hierarchy = require "hd.hierarchy"
local schedule = require "hd.schedule"
local sampler = require "hd.sampler"
local haar = hierarchy.haar

-- Matrices as lists of rows ------------------------------------------------------------------------------------------

-- The inverse of a symmetric positive definite matrix (Gauss-Jordan, in place on a copy).
local function inverse(A)
  local k, M = #A, {}
  for i = 1, k do M[i] = table.move(A[i], 1, k, 1, {}) end
  for c = 1, k do
    local pivot, row = 1 / M[c][c], M[c]
    row[c] = 1.0
    for j = 1, k do row[j] = row[j] * pivot end
    for r = 1, k do
      local other = M[r]
      local f = other[c]
      if r ~= c and f ~= 0 then
        other[c] = 0.0
        for j = 1, k do other[j] = other[j] - f * row[j] end
      end
    end
  end
  return M
end

-- The logarithm of a determinant, by Cholesky; -inf for a singular matrix.
local function logdet(A)
  local L, sum = {}, 0
  for i = 1, #A do
    local row = {}
    L[i] = row
    for j = 1, i do
      local v = A[i][j]
      for q = 1, j - 1 do v = v - row[q] * L[j][q] end
      if i == j then
        if v <= 0 then return -math.huge end
        row[i] = math.sqrt(v)
        sum = sum + 2 * math.log(row[i])
      else
        row[j] = v / L[j][j]
      end
    end
  end
  return sum
end

local function tensor(A) return core.tensor(A, { dtype = "f64" }) end

-- KL(N(0, G) || N(0, C)).
local function kl(G, C)
  local trace = (tensor(inverse(C)) * G):sum():item()
  return 0.5 * (trace - #C - logdet(G:totable()) + logdet(C))
end

-- Samples of unit vectors, one a row, give the covariance of the samples.
local function covariance(x)
  local rows = x:reshape(x:size(1), -1)
  return rows:transpose(1, 2):matmul(rows)
end

-- C of a stationary signal of n positions with spectrum 1 / f^alpha and unit variance.
local function power_law(n, alpha)
  local row, C = {}, {}
  for d = 0, n - 1 do
    local v = 0
    for f = 0, n - 1 do v = v + math.cos(2 * math.pi * f * d / n) / math.max(math.min(f, n - f), 1) ^ alpha end
    row[d] = v
  end
  for i = 1, n do
    C[i] = {}
    for j = 1, n do C[i][j] = row[math.abs(i - j)] / row[0] end
  end
  return C
end

-- The hierarchy ------------------------------------------------------------------------------------------------------

local NAMES = { "low", "coarse", "middle", "fine" } -- 8, 8, 16 and 32 of 64 positions

local function bands(names)
  local levels = {}
  for i, name in ipairs(names or NAMES) do levels[i] = { name = name, context = {} } end
  return hierarchy.new {
    shape = { 1, 64 }, levels = levels,
    split = function(x)
      local low, details = haar.split(x, 3)
      return { low = low, coarse = details[1], middle = details[2], fine = details[3] }
    end,
    join = function(z) return haar.join(z.low, { z.coarse, z.middle, z.fine }) end,
  }
end

local function unit_vectors(n) return core.eye(n, { dtype = "f64" }) end

-- All levels of H as one row each, level after level; and the ranges of the levels in it.
local function flatten(H, z)
  local parts = {}
  for i, name in ipairs(H:level_names()) do parts[i] = z[name]:reshape(z[name]:size(1), -1) end
  return core.op.cat(parts, 2)
end
local function ranges(H)
  local out, start = {}, 1
  for _, name in ipairs(H:level_names()) do
    local size = 1
    for _, e in ipairs(H.shapes[name]) do size = size * e end
    out[name] = { start, size }
    start = start + size
  end
  return out, start - 1
end

-- The covariance of the levels for data of covariance C, and how each level is scaled to unit variance on average.
local function level_covariance(H, C)
  local W = flatten(H, H:split(unit_vectors(#C):reshape(#C, table.unpack(H.shape)))) -- row i: the levels of e_i
  local Z = W:transpose(1, 2):matmul(tensor(C)):matmul(W):totable()
  local range, std = ranges(H), {}
  for name, r in next, range do
    local sum = 0
    for i = r[1], r[1] + r[2] - 1 do sum = sum + Z[i][i] end
    std[name] = math.sqrt(sum / r[2])
  end
  return Z, std
end

-- The same in coordinates where level l is divided by std[l].
local function scaled(H, Z, std)
  local of, range = {}, ranges(H)
  for name, r in next, range do
    for i = r[1], r[1] + r[2] - 1 do of[i] = std[name] end
  end
  local out = {}
  for i = 1, #Z do
    out[i] = {}
    for j = 1, #Z do out[i][j] = Z[i][j] / (of[i] * of[j]) end
  end
  return out
end

-- The best denoiser of data with covariance C when coordinate i carries noise of sigma[i]: C (C + diag sigma^2)^-1,
-- transposed, for rows of data. Kept by key, because each is asked for several times.
local function best(C, cache, key, sigma)
  if not cache[key] then
    local A = {}
    for i = 1, #C do
      A[i] = table.move(C[i], 1, #C, 1, {})
      A[i][i] = A[i][i] + sigma(i) ^ 2 + 1e-14 -- levels at sigma 0 leave A near singular
    end
    cache[key] = core.keep(tensor(inverse(A)):matmul(tensor(C)))
  end
  return cache[key]
end

-- The best denoiser of each level, given all levels and their sigmas; `told` may change the sigmas before.
local function denoisers(H, C, told)
  local range, functions, cache = ranges(H), {}, {}
  for name, r in next, range do
    functions[name] = function(z, sigmas, levels)
      local s = told and told(sigmas) or sigmas
      local key, of = {}, {}
      for i, other in ipairs(H:level_names()) do
        key[i] = ("%.17g"):format(s[other])
        for k = 0, range[other][2] - 1 do of[range[other][1] + k] = s[other] end
      end
      local D = best(C, cache, table.concat(key, " "), function(i) return of[i] end)
      return flatten(H, levels):matmul(D:narrow(2, r[1], r[2])):reshape(z:shape())
    end
  end
  return functions
end

-- Unit vectors over all levels, as noise.
local function unit_noise(H)
  local range, total = ranges(H)
  local e, noise = unit_vectors(total), {}
  for name, r in next, range do
    noise[name] = e:narrow(2, r[1], r[2]):reshape(total, table.unpack(H.shapes[name]))
  end
  return noise, total
end

local DATA = { [1] = power_law(64, 1), [2] = power_law(64, 2), [3] = power_law(64, 3) }

-- The error of H:sample in a regime. `o`: steps, sampler, told.
local function error_of(H, C, regime, o)
  local Z, std = level_covariance(H, C)
  if regime ~= "flat" then
    local stats = {}
    for name, s in next, std do stats[name] = { std = s } end
    H:set_stats(stats)
    Z = scaled(H, Z, std)
  end
  local noise, n = unit_noise(H)
  local x = H:sample(nil, n, { regime = regime, noise = noise, denoise = denoisers(H, Z, o.told), steps = o.steps,
    sampler = o.sampler, t_aug = 0, clocks = o.clocks })
  return kl(covariance(x), C)
end

local function near(expected, got, tolerance)
  assert.is_true(math.abs(expected - got) <= tolerance, ("got %.5f, expected %.4f"):format(got, expected))
end

describe("Gaussian oracle", function()
  -- alpha, steps, error of the flat process and of the cascade in standardised coordinates
  local KNOWN = { { 2, 18, 0.2811, 0.1541 }, { 2, 10, 4.3455, 2.3232 }, { 1, 18, 0.1535, 0.1319 },
    { 3, 18, 0.6203, 0.2188 } }

  it("hd.sampler.heun on x has the known error", function()
    for _, case in ipairs(KNOWN) do
      local C, cache = DATA[case[1]], {}
      local x = unit_vectors(64):reshape(64, 1, 64)
      local sigmas = schedule.karras():sigmas { steps = case[2] }
      local y = sampler.heun(function(z, sigma)
        return z:reshape(64, 64):matmul(best(C, cache, sigma, function() return sigma end)):reshape(z:shape())
      end, x * sigmas[1], sigmas)
      near(case[3], kl(covariance(y), C), 1e-3)
    end
  end)

  it("H:sample has the known error when flat", function()
    for _, case in ipairs(KNOWN) do
      near(case[3], error_of(bands(), DATA[case[1]], "flat", { steps = case[2] }), 1e-3)
    end
  end)

  it("H:sample has the known error in a cascade", function()
    for _, case in ipairs(KNOWN) do
      near(case[4], error_of(bands(), DATA[case[1]], "cascade", { steps = case[2] }), 1e-3)
    end
  end)

  -- alpha, steps, error when joint and when staggered (coarser levels lead by 0.3 of a run)
  local TOGETHER = { { 2, 18, 0.1634, 0.1544 }, { 2, 10, 2.4598, 2.3280 }, { 1, 18, 0.1331, 0.1319 },
    { 3, 18, 0.2606, 0.2196 } }

  it("H:sample has the known error when joint, and when networks of any regime run together", function()
    for _, case in ipairs(TOGETHER) do
      near(case[3], error_of(bands(), DATA[case[1]], "joint", { steps = case[2] }), 1e-3)
    end
    near(0.1634, error_of(bands(), DATA[2], "free", { steps = 18 }), 1e-3)
  end)

  it("H:sample has the known error when staggered", function()
    for _, case in ipairs(TOGETHER) do
      near(case[4], error_of(bands(), DATA[case[1]], "staggered", { steps = case[2] }), 1e-3)
    end
  end)

  it("H:sample has the known error with own clocks", function()
    local function together(u) return { low = u, coarse = u, middle = u, fine = u } end
    near(0.1634, error_of(bands(), DATA[2], "free", { steps = 18, clocks = together }), 1e-3)
    -- the lowest level alone in the first half, all others in the second, each with every other step
    local function halves(u)
      local later = math.min(1, 2 * u)
      return { low = math.max(0, 2 * u - 1), coarse = later, middle = later, fine = later }
    end
    near(3.0465, error_of(bands(), DATA[2], "free", { steps = 18, clocks = halves }), 1e-3)
  end)

  it("a flipped sign in the sampler is seen", function()
    -- hd.sampler.heun with the given signs of the first slope and of the second
    local function heun(first, second)
      return function(denoise, x, sigmas)
        for i = 1, #sigmas - 1 do
          local slope = (x - denoise(x, sigmas[i])) * (first / sigmas[i])
          local to = x + slope * (sigmas[i + 1] - sigmas[i])
          if sigmas[i + 1] > 0 then
            local corrected = (to - denoise(to, sigmas[i + 1])) * (second / sigmas[i + 1])
            to = x + (slope + corrected) * (0.5 * (sigmas[i + 1] - sigmas[i]))
          end
          x = to
        end
        return x
      end
    end
    near(0.1541, error_of(bands(), DATA[2], "cascade", { sampler = heun(1, 1) }), 1e-3)
    for _, signs in ipairs { { -1, 1 }, { 1, -1 } } do
      local wrong = error_of(bands(), DATA[2], "cascade", { sampler = heun(table.unpack(signs)) })
      assert.is_true(wrong > 0.1541 + 1e-2, ("got %g"):format(wrong))
    end
  end)

  it("swapped clocks are seen", function()
    for i = 1, #NAMES - 1 do
      local a, b = NAMES[i], NAMES[i + 1]
      local wrong = error_of(bands(), DATA[2], "cascade", { told = function(sigmas)
        local s = {}
        for _, name in ipairs(NAMES) do s[name] = sigmas[name == a and b or name == b and a or name] end
        return s
      end })
      assert.is_true(wrong > 0.1541 + 1e-2, ("%s and %s: got %g"):format(a, b, wrong))
    end
  end)

  it("pictures come out with their covariance", function()
    -- 3 colours that go together on 4 x 4 positions whose correlation falls with the distance
    local C = {}
    for i = 0, 47 do
      C[i + 1] = {}
      for j = 0, 47 do
        local a, b = i % 16, j % 16
        local distance = math.abs(a // 4 - b // 4) + math.abs(a % 4 - b % 4)
        C[i + 1][j + 1] = (i // 16 == j // 16 and 1 or 0.9) * 0.8 ^ distance
      end
    end
    for _, regime in ipairs { "flat", "cascade", "joint", "staggered" } do
      local found = error_of(hierarchy.images { size = 4, steps = 1 }, C, regime, { steps = 36 })
      assert.is_true(found < 0.02, ("%s: got %g"):format(regime, found))
    end
  end)
end)

describe("flat equivalence", function()
  local H = bands()
  -- a denoiser that is not linear
  local function flat(x, sigma) return (x * (1 / (1 + sigma))):tanh() + x:flip(3) * (0.1 / (1 + sigma * sigma)) end
  local function in_levels(name)
    return function(_, sigmas, z) return H:split(flat(H:join(z), sigmas[name]))[name] end
  end

  it("the levels run as x does, step for step", function()
    local rng, noise, denoise = core.rng(3), {}, {}
    for _, name in ipairs(NAMES) do
      noise[name] = core.randn({ 5, table.unpack(H.shapes[name]) }, { dtype = "f64", rng = rng })
      denoise[name] = in_levels(name)
    end
    local steps = {}
    local x = H:sample(nil, 5, { regime = "flat", noise = noise, denoise = denoise, on_step = function(step)
      steps[step.i] = steps[step.i] or {}
      steps[step.i][step.level] = core.keep(step.x)
    end })
    local sigmas, count = schedule.karras():sigmas { steps = 18 }, 0
    local y = sampler.heun(flat, H:join(noise) * sigmas[1], sigmas, { on_step = function(step)
      count = count + 1
      assert.is_true((step.x - H:join(steps[step.i])):norm():item() <= 1e-10 * step.x:norm():item())
    end })
    assert.are.equal(18, count)
    assert.are.equal("f64", x:dtype())
    assert.is_true((x - y):norm():item() <= 1e-10 * y:norm():item())
  end)

  it("the levels of noisy x are noisy levels", function()
    local rng, s = core.rng(4), schedule.cosine()
    local x = core.randn({ 3, 1, 64 }, { dtype = "f64", rng = rng })
    local eps = core.randn({ 3, 1, 64 }, { dtype = "f64", rng = rng })
    for _, t in ipairs { 0.1, 0.5, 0.9 } do
      local alpha, sigma = s:alpha_sigma(t)
      local whole, clean, noise = H:split(x * alpha + eps * sigma), H:split(x), H:split(eps)
      for _, name in ipairs(NAMES) do
        local difference = whole[name] - (clean[name] * alpha + noise[name] * sigma)
        assert.is_true(difference:abs():amax():item() <= 1e-12)
      end
    end
  end)
end)
