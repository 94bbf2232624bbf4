-- tests/lua/metrics_spec.lua: hd.metrics against closed forms, sums written out, and the limits that distances have.

local hd = require "hd"
local core = require "hd.core"
local gaussian = require "hd.metrics.gaussian"
local neighbours = require "hd.metrics.neighbours"
local sliced = require "hd.metrics.sliced"
local sandbox = require "tests.lua.sandbox"
local metrics = hd.metrics

hd.threads(1) -- small networks, and other tests beside this one
local N = 500

local function message(fn, ...)
  local ok, text = pcall(fn, ...)
  assert.is_false(ok)
  return tostring(text)
end

local function near(expected, got, tolerance)
  assert.is_true(math.abs(expected - got) <= tolerance, ("got %.12g, expected %.12g +- %g"):format(got, expected,
    tolerance))
end

local function normal(n, d, seed) return hd.randn({ n, d }, { dtype = "f64", rng = hd.rng(seed) }) end
local function f64(list) return hd.tensor(list, { dtype = "f64" }) end
local function shuffled(x, seed)
  return x:index_select(1, hd.tensor(core.permutation(x:size(1), seed), { dtype = "i64" }))
end

local set = hd.data.shapes { size = 8, n = 2 * N, seed = 3 }
local all = set.x:to "f32" * (1 / 127.5) - 1
local x, y = all:narrow(1, 1, N), all:narrow(1, N + 1, N)
local function noisy(strength) return y + hd.randn(y:shape(), { rng = hd.rng(5) }) * strength end

-- Features that need no training: fixed random filters.
local function random_features(p)
  local weight = hd.randn({ 12, 3, 3, 3 }, { rng = hd.rng(9) })
  return core.op.conv2d(p, weight):relu():mean { 3, 4 }
end

describe("every metric", function()
  it("refuses fewer than 500 samples on either side", function()
    local few = all:narrow(1, 1, N - 1)
    local a, b = random_features(few), random_features(y)
    for _, name in ipairs { "frechet", "kernel", "precision_recall", "two_sample" } do
      for _, pair in ipairs { { a, b }, { b, a } } do
        local text = message(metrics[name], pair[1], pair[2])
        assert.truthy(text:find("metrics." .. name .. ": ", 1, true))
        assert.truthy(text:find("too few samples: got 499, expected at least 500", 1, true))
      end
    end
    for _, name in ipairs { "sliced_wasserstein", "spectrum_distance", "mean_shift", "band_energy", "memorisation" } do
      for _, pair in ipairs { { few, y }, { y, few } } do
        assert.truthy(message(metrics[name], pair[1], pair[2]):find("too few samples: got 499", 1, true))
      end
    end
  end)

  it("refuses sets of other shapes, types and unknown options", function()
    assert.truthy(message(metrics.frechet, normal(N, 3, 1), normal(N, 4, 1)):find("shapes differ", 1, true))
    assert.truthy(message(metrics.frechet, x, y):find("expected features", 1, true))
    assert.truthy(message(metrics.band_energy, normal(N, 3, 1), normal(N, 3, 2)):find("expected pictures", 1, true))
    assert.truthy(message(metrics.kernel, normal(N, 3, 1), normal(N, 3, 2), { sed = 1 }):find("'seed'", 1, true))
    assert.truthy(message(metrics.kernel, x, y, { resamples = 1 }):find("resamples is wrong", 1, true))
    assert.truthy(message(metrics.sliced_wasserstein, x:to "i64", y):find("expected u8, or floats", 1, true))
  end)

  it("takes sets, bytes and floats alike", function()
    local a = set:subset(core.permutation(N, 1))
    local expected = metrics.sliced_wasserstein(a.x:to "f32" * (1 / 127.5) - 1, y)
    assert.are.equal(expected, metrics.sliced_wasserstein(a, y))
    assert.are.equal(expected, metrics.sliced_wasserstein(a.x, y))
  end)

  it("is 0 from a set to itself, small between halves, and grows with noise", function()
    local distances = {
      frechet = function(a, b) return metrics.frechet(random_features(a), random_features(b)) end,
      sliced = metrics.sliced_wasserstein, spectrum = metrics.spectrum_distance,
    }
    for _, name in ipairs { "frechet", "sliced", "spectrum" } do
      local distance = distances[name]
      near(0, distance(x, x), 1e-7)
      local halves, last = distance(x, y), 0
      for _, strength in ipairs { 0.3, 0.6, 1.2 } do
        local d = distance(x, noisy(strength))
        assert.is_true(d > last and d > 2 * halves, ("%s: %g at %g, %g between halves"):format(name, d, strength,
          halves))
        last = d
      end
    end
    assert.is_true(metrics.kernel(random_features(x), random_features(noisy(0.6)))
      > 5 * math.abs(metrics.kernel(random_features(x), random_features(y))))
  end)

  it("does not depend on the order of samples", function()
    local a, b = random_features(x), random_features(y)
    local c, d = shuffled(a, 1), shuffled(b, 2)
    near(metrics.frechet(a, b), metrics.frechet(c, d), 1e-9)
    near(metrics.kernel(a, b), metrics.kernel(c, d), 1e-6)
    assert.are.same(metrics.precision_recall(a, b), metrics.precision_recall(c, d))
    near(metrics.sliced_wasserstein(x, y), metrics.sliced_wasserstein(shuffled(x, 1), shuffled(y, 2)), 1e-6)
    near(metrics.spectrum_distance(x, y), metrics.spectrum_distance(shuffled(x, 1), shuffled(y, 2)), 1e-4)
  end)
end)

describe("the Fréchet distance", function()
  it("of normal distributions is the closed form", function()
    local d = 5
    local eye = hd.eye(d, { dtype = "f64" })
    -- N(0, I) and N(m, 9 I): |m|^2 + d (3 - 1)^2
    near(4 + d * 4, gaussian.of_moments(hd.zeros({ d }, { dtype = "f64" }), eye, f64 { 2, 0, 0, 0, 0 }, eye * 9), 1e-10)
    -- covariances that do not commute; of 2 rows, tr (C1 C2)^(1/2) = (tr(C1 C2) + 2 (det C1 det C2)^(1/2))^(1/2)
    local c1, c2, zero = f64 { { 4, 0 }, { 0, 1 } }, f64 { { 2, 1 }, { 1, 3 } }, f64 { 0, 0 }
    local expected = 5 + 5 - 2 * math.sqrt(4 * 2 + 1 * 3 + 2 * math.sqrt(4 * 5))
    near(expected, gaussian.of_moments(zero, c1, zero, c2), 1e-12)
    near(expected, gaussian.of_moments(zero, c2, zero, c1), 1e-12)
    -- without full rank: lines at right angles have nothing in common
    near(2, gaussian.of_moments(zero, f64 { { 1, 0 }, { 0, 0 } }, zero, f64 { { 0, 0 }, { 0, 1 } }), 1e-12)
  end)

  it("of samples is that of their moments", function()
    local a = f64 { { 1, 0 }, { -1, 0 }, { 0, 2 }, { 0, -2 } } -- covariance diag(2, 8) / 3
    near(25 + (math.sqrt(8 / 3) - math.sqrt(2 / 3)) ^ 2 * 2, gaussian.frechet(a, a:flip(2) + f64 { 3, 4 }), 1e-12)
    local far = normal(20000, 3, 2) * 2 + f64 { 1, 0, 0 }
    near(1 + 3, metrics.frechet(normal(20000, 3, 1), far), 0.15)
  end)
end)

describe("the kernel distance", function()
  it("is the sum over pairs", function()
    local a, b = normal(5, 3, 1), normal(4, 3, 2)
    local function k(p, q) return ((p * q):sum():item() / 3 + 1) ^ 3 end
    local within_a, within_b, across = 0, 0, 0
    for i = 1, 5 do
      for j = 1, 5 do within_a = within_a + (i ~= j and k(a[i], a[j]) / 20 or 0) end
      for j = 1, 4 do across = across + k(a[i], b[j]) / 20 end
    end
    for i = 1, 4 do
      for j = 1, 4 do within_b = within_b + (i ~= j and k(b[i], b[j]) / 12 or 0) end
    end
    near(within_a + within_b - 2 * across, gaussian.kernel(a, b), 1e-10)
    near(gaussian.kernel(a, b), gaussian.kernel(b, a), 1e-10)
  end)

  it("is 0 on average for sets of one distribution", function()
    local sum, squares = 0, 0
    for seed = 1, 30 do
      local d = gaussian.kernel(normal(60, 4, seed), normal(50, 4, 100 + seed))
      sum, squares = sum + d / 30, squares + d * d / 30
    end
    near(0, sum, 3 * math.sqrt(squares / 30))
  end)
end)

describe("the sliced Wasserstein distance", function()
  local function of(a, b)
    local p, q = f64(a):view(-1, 1), f64(b):view(-1, 1)
    return sliced.distance(sliced.project(p, 8, 0), sliced.project(q, 8, 0))
  end

  it("of numbers is the distance of their quantiles", function()
    near(math.sqrt((4 + 16) / 2), of({ 1, 0 }, { 2, 5 }), 1e-12)
    near(math.sqrt((1 + 9) / 2), of({ 0 }, { 3, 1 }), 1e-12)
    -- 0 0 0 3 3 3 against 1 1 1 1 4 4
    near(math.sqrt((3 * 1 + 4 + 1 + 1) / 6), of({ 3, 0 }, { 1, 4, 1 }), 1e-12)
  end)

  it("of normal distributions is the closed form", function()
    local d = 16
    local a = normal(4000, d, 1)
    local moved = a + hd.cat { f64 { 2 }, hd.zeros({ d - 1 }, { dtype = "f64" }) }
    near(2 / math.sqrt(d), metrics.sliced_wasserstein(a, moved, { projections = 1000 }), 0.02)
    near(2, metrics.sliced_wasserstein(a, normal(4000, d, 2) * 3), 0.03)
  end)
end)

describe("figures of pictures", function()
  it("put power where a wave is", function()
    local steps = hd.arange(0, 15):to "f32"
    local wave = (steps * (2 * math.pi * 3 / 16)):cos():view(1, 1, 1, 16):expand(N, 1, 16, 16)
    local power = metrics.spectrum(wave)
    for r, p in ipairs(power) do
      -- two of the 256 frequencies hold the mean square 1/2 times 256 pixels, shared with the ring's others
      if r == 3 then assert.is_true(p > 1) else near(0, p, 1e-4) end
    end
  end)

  it("give white noise a flat spectrum of its variance", function()
    for _, p in ipairs(metrics.spectrum(hd.randn({ 2000, 3, 8, 8 }, { rng = hd.rng(1) }) * 2)) do near(4, p, 0.15) end
  end)

  it("tell twice the contrast as 6 decibels and four times the energy", function()
    near(20 * math.log(2, 10), metrics.spectrum_distance(x, x * 2), 1e-3)
    for _, ratio in ipairs(metrics.band_energy(x, x * 2)) do near(4, ratio, 1e-3) end
  end)

  it("tell the mean's shift channel by channel", function()
    local shift = metrics.mean_shift(x, x + hd.tensor({ 0.1, 0, -0.2 }):view(1, 3, 1, 1))
    near(0.1, shift[1], 1e-6)
    near(0, shift[2], 1e-6)
    near(-0.2, shift[3], 1e-6)
  end)

  it("tell one band's energy from the others'", function()
    local haar = hd.hierarchy.haar
    for band = 1, 3 do
      local low, details = haar.split(x, 2)
      if band == 1 then low = low * 1.5 else details[band - 1] = details[band - 1] * 1.5 end
      local ratios = metrics.band_energy(x, haar.join(low, details))
      for k = 1, 3 do near(k == band and 2.25 or 1, ratios[k], 1e-4) end
    end
    assert.are.equal(4, #metrics.band_energy(x, y, { steps = 3 }))
    assert.truthy(message(metrics.band_energy, x, y, { steps = 4 }):find("steps is wrong", 1, true))
    assert.truthy(message(metrics.band_energy, hd.zeros { N, 1, 7, 7 }, hd.zeros { N, 1, 7, 7 }):find("steps", 1, true))
  end)
end)

describe("neighbours", function()
  -- The same counted one by one.
  local function counted(real, made, k)
    local function distances(p, list, skip)
      local out = {}
      for j = 1, list:size(1) do
        if j ~= skip then out[#out + 1] = (p - list[j]):norm():item() end
      end
      return out
    end
    local function share(a, b)
      local radius, inside = {}, 0
      for j = 1, b:size(1) do
        local d = distances(b[j], b, j)
        table.sort(d)
        radius[j] = d[k]
      end
      for i = 1, a:size(1) do
        for j, d in ipairs(distances(a[i], b)) do
          if d <= radius[j] then
            inside = inside + 1
            break
          end
        end
      end
      return inside / a:size(1)
    end
    return { share(made, real), share(real, made) }
  end

  it("give precision and recall as counted one by one", function()
    for k = 1, 3 do
      local real, made = normal(20, 2, 4), normal(15, 2, 7) * 1.5 + 0.5
      assert.are.same(counted(real, made, k), neighbours.precision_recall(real, made, k))
    end
  end)

  it("know sets that are one and sets that are apart", function()
    local a = normal(N + 20, 3, 1) -- more than one block of rows
    assert.are.same({ 1, 1 }, metrics.precision_recall(a, a))
    assert.are.same({ 0, 0 }, metrics.precision_recall(a, a + 100))
    local pair = metrics.precision_recall(a, a * 0.05) -- all real, all alike
    assert.is_true(pair[1] > 0.99 and pair[2] < 0.1)
  end)

  it("find copies of the training set", function()
    local copies, found = metrics.memorisation(x, x, { resamples = 4 })
    assert.are.equal(1, copies.copies)
    assert.are.same({ 0, 0, 0, 0 }, copies.made)
    assert.are.same({ low = 1, high = 1 }, found)
    assert.is_true(copies.real[1] > 0.01)
    local fresh = metrics.memorisation(x, y, { held = noisy(0.01), quantiles = { 0.5 } })
    assert.is_true(fresh.copies < 0.05)
    near(fresh.real[1], fresh.made[1], 0.02)
    local half = metrics.memorisation(x, hd.cat({ x:narrow(1, 1, N // 2), y:narrow(1, 1, N // 2) }, 1))
    near(0.5, half.copies, 0.05)
  end)

  it("measure small distances exactly", function()
    local far = hd.full({ 1, 300 }, 1000)
    near(1e-3, neighbours.nearest(far, far + 1e-3, false):item(), 5e-5)
    assert.are.same({ 2, 1, 1 }, neighbours.nearest(f64 { { 0 }, { 2 }, { 3 } }, f64 { { 0 }, { 2 }, { 3 } }, true)
      :totable())
  end)
end)

describe("the two-sample classifier", function()
  it("cannot tell sets of one distribution apart, and tells others", function()
    local a = normal(600, 4, 1):to "f32"
    local same, interval = metrics.two_sample(a, normal(600, 4, 11):to "f32")
    assert.is_true(interval.low < 0.5 and 0.5 < interval.high)
    assert.is_true(interval.low < same and same < interval.high)
    assert.is_true(metrics.two_sample(a, a + 6) > 0.99)
    local spread, reach = metrics.two_sample(a, normal(600, 4, 2):to "f32" * 3) -- means alone say nothing
    assert.is_true(spread > 0.75 and reach.low > 0.7)
  end)

  it("depends on its seed alone, and leaves the default generator", function()
    local a, b = normal(N, 3, 1):to "f32", normal(N, 3, 2):to "f32" * 1.3
    hd.seed(1)
    local state = core.rng_state()
    local first = metrics.two_sample(a, b, { seed = 4 })
    assert.are.same(state, core.rng_state())
    hd.seed(2)
    assert.are.equal(first, metrics.two_sample(a, b, { seed = 4 }))
  end)
end)

describe("intervals", function()
  it("of a mean are Student's", function()
    local interval = require "hd.metrics.interval"
    -- 97.5 % of t: 12.7062 (1), 4.3027 (2), 3.1824 (3), 2.2622 (9), 2.0452 (29), from tables
    for degrees, t in next, { 12.7062, 4.3027, 3.1824, [9] = 2.2622, [29] = 2.0452 } do -- order free: separate cases
      local values, n = {}, degrees + 1
      for i = 1, n do values[i] = i % 2 end
      local mean = (n + 1) // 2 / n
      local deviation = math.sqrt(n / (n - 1) * mean * (1 - mean))
      local found = interval.of_mean(values)
      assert.is_true(math.abs(found.mean - mean) < 1e-12)
      assert.is_true(math.abs((found.high - mean) / (deviation / math.sqrt(n)) - t) < 0.005, tostring(degrees))
      assert.is_true(math.abs(found.low + found.high - 2 * mean) < 1e-12)
    end
  end)

  it("are as wide as theory says for a mean", function()
    local a = normal(1000, 1, 3):expand(1000, 4):reshape(1000, 4, 1, 1)
    local shift, found = metrics.mean_shift(hd.zeros({ 1000, 4, 1, 1 }, { dtype = "f64" }), a, { resamples = 400 })
    near(1.96 / math.sqrt(1000), (found.high[1] - found.low[1]) / 2, 0.1 * 1.96 / math.sqrt(1000))
    near(shift[1], (found.high[1] + found.low[1]) / 2, 1e-12)
  end)

  it("depend on the seed alone", function()
    local _, a = metrics.sliced_wasserstein(x, y, { resamples = 3, projections = 8 })
    local _, b = metrics.sliced_wasserstein(x, y, { resamples = 3, projections = 8 })
    local _, c = metrics.sliced_wasserstein(x, y, { resamples = 3, projections = 8, seed = 1 })
    assert.are.same(a, b)
    assert.are_not.same(a, c)
  end)
end)

describe("levels of a hierarchy", function()
  local H = hd.hierarchy.images { size = 8 }:fit_stats(set)

  it("have figures of their own", function()
    local z = H:split(y)
    z.textures = z.textures * 1.5
    local figures = metrics.levels(H, y, H:join(z), { resamples = 2, projections = 64 })
    near(0, figures.shapes.sliced, 1e-5)
    near(0, figures.colours.sliced, 1e-5)
    assert.is_true(figures.textures.sliced > 0.1)
    near(20 * math.log(1.5, 10), figures.textures.spectrum, 0.2)
    assert.is_nil(figures.shapes.spectrum) -- of 2x2 positions
    assert.is_true(figures.textures.interval.low < figures.textures.sliced)
  end)

  it("show where errors come from", function()
    -- b follows a; what is drawn for a is far too narrow, what is drawn for b given a is right
    local split = function(p) return { a = p:narrow(2, 1, 1), b = p:narrow(2, 2, 1) } end
    local two = hd.hierarchy.new {
      name = "two", split = split, join = function(z) return hd.cat({ z.a, z.b }, 2) end, shape = { 2, 1, 1 },
      levels = { { name = "a" }, { name = "b" } },
    }
    local a = hd.randn({ N, 1, 1, 1 }, { rng = hd.rng(1) })
    local gap = metrics.chain_gap(two, nil, hd.cat({ a, a }, 2), { sample = { steps = 3, denoise = {
      a = function(z) return z * 0 end, b = function(_, _, levels) return levels.a end,
    } } })
    assert.is_nil(gap.a)
    near(0, gap.b.given, 1e-3)
    near(1, gap.b.drawn, 0.1)
    near(gap.b.drawn - gap.b.given, gap.b.gap, 1e-12)
  end)
end)

describe("features", function()
  before_each(function() sandbox.open {} end)
  after_each(sandbox.close)

  local trained = metrics.train_features(set, { steps = 40, width = 8 })

  it("are learnt from classes, better than by chance", function()
    assert.are.equal("hdfd-shapes-v1", trained.name)
    assert.are.same({ 5, 48, 3, 8 }, { trained.classes, trained.dim, trained.channels, trained.size })
    assert.is_true(trained.accuracy > 0.35, tostring(trained)) -- of five
    local right = trained:classify(set.x):eq(set.labels):to "f32":mean():item()
    assert.is_true(right > 0.35)
    local f = trained(set)
    assert.are.same({ 2 * N, 48 }, f:shape())
    assert.is_true(f:mean(1):abs():amax():item() < 0.3)
    local self_distance = metrics.frechet(trained(x), trained(x))
    near(0, self_distance, 1e-6)
    assert.is_true(metrics.frechet(trained(x), trained(noisy(0.5))) > 2 * metrics.frechet(trained(x), trained(y)))
  end)

  it("or from single pictures where there are no classes", function()
    local plain = hd.data.Set(set.x, nil, { name = "plain" })
    local f = metrics.train_features(plain, { steps = 10, width = 8 })
    assert.are.equal("pictures", f.task)
    assert.are.equal(2 * N, f.classes)
    assert.is_nil(plain.labels)
  end)

  it("do not depend on batches, the default generator or a second training", function()
    hd.seed(77)
    local state = core.rng_state()
    local again = metrics.train_features(set, { steps = 40, width = 8 })
    assert.are.same(state, core.rng_state())
    assert.is_true(again(x):equal(trained(x)))
    local difference = (trained(x, { batch = 7 }) - trained(x)):norm():item() / trained(x):norm():item()
    assert.is_true(difference < 1e-5)
  end)

  it("are saved with what they are, and come back bit for bit", function()
    local path = sandbox.path "f.safetensors"
    assert(trained:save(path))
    local back = assert(metrics.features(path))
    assert.are.equal(tostring(trained), tostring(back))
    assert.is_true(back(x):equal(trained(x)))
    local _, texts = hd.load(path)
    assert.are.equal("hdfd-shapes-v1", texts.name)
    assert.are.equal("1", texts.version)
    near(trained.accuracy, tonumber(texts.accuracy), 1e-12)
  end)

  it("refuse files that hold something else, and pictures of other channels", function()
    local path = sandbox.path "f.safetensors"
    assert.is_nil(metrics.features(sandbox.path "none.safetensors"))
    assert(hd.save(path, { a = x }))
    local nothing, text = metrics.features(path)
    assert.is_nil(nothing)
    assert.truthy(text:find("holds no features", 1, true))
    assert(trained:save(path))
    local tensors, texts = hd.load(path)
    texts["hdlua.checksum"] = nil
    for _, change in ipairs { { "version", "0" }, { "width", "100000" }, { "width", "12" }, { "classes", "7" },
      { "steps", "many" } } do
      local kept = texts[change[1]]
      texts[change[1]] = change[2]
      assert(hd.save(path, tensors, { metadata = texts }))
      nothing, text = metrics.features(path)
      assert.is_nil(nothing)
      assert.truthy(text:find("cannot be used", 1, true))
      texts[change[1]] = kept
    end
    assert.truthy(message(trained, hd.zeros { N, 1, 8, 8 }):find("expected [n,3,h,w]", 1, true))
    assert.truthy(message(metrics.train_features, set, { width = 12 }):find("multiple of 8", 1, true))
  end)

  it("are what `hdlua -m features` writes", function()
    local out, code = sandbox.shell "$H -m features --data shapes --size 8 --steps 5 --width 8 --out f.safetensors"
    assert.are.equal(0, code, out)
    assert.are.equal("hdfd-shapes-v1", assert(metrics.features(sandbox.path "f.safetensors")).name)
    out, code = sandbox.shell "$H -m features --data nothing"
    assert.are.equal(1, code)
    assert.truthy(out:find("expected emoji, shapes", 1, true))
  end)
end)
