-- tests/lua/hierarchy_spec.lua: the object itself: splitting, declaring, statistics. Its networks, losses and samples
-- are in hierarchy_run_spec, compared with known answers in oracle_spec; sound and text in modality_spec.

local core = require "hd.core"
local hierarchy = require "hd.hierarchy"
local optim = require "hd.optim"
local data = require "hd.data"
local haar, colour = hierarchy.haar, hierarchy.colour

local function message(fn, ...)
  local ok, text = pcall(fn, ...)
  assert.is_false(ok)
  return tostring(text)
end

local function shape_of(x) return table.concat(x:shape(), ",") end

-- The L2 distance of two tensors, relative to the second.
local function distance(a, b) return (a - b):norm():item() / math.max(1e-30, b:norm():item()) end

local function near(expected, got, tolerance)
  assert.is_true(math.abs(expected - got) <= tolerance, ("got %g, expected %g"):format(got, expected))
end

-- Two levels of a signal of 16 numbers.
local function signal(opts)
  local o = {
    levels = { { name = "low" }, { name = "high" } },
    split = function(x)
      local low, high = haar.down(x)
      return { low = low, high = high }
    end,
    join = function(z) return haar.up(z.low, z.high) end,
  }
  for key, value in next, opts or {} do o[key] = value end
  return hierarchy.new(o)
end

local function randn(shape, stream) return core.randn(shape, { rng = core.rng(7, stream or 1) }) end

describe("split and join", function()
  it("rebuild random pictures of any size, one or several", function()
    for _, case in ipairs { { 8, 1 }, { 8, 3 }, { 12, 2 }, { 20, 2 }, { 32, 2 }, { 32, 3 }, { 64, 2 } } do
      local H = hierarchy.images { size = case[1], steps = case[2] }
      for _, n in ipairs { 1, 3 } do
        assert.is_true(H:check(randn { n, 3, case[1], case[1] }) <= 1e-6, ("size %d"):format(case[1]))
      end
    end
  end)

  it("rebuild real pictures", function()
    local set = data.emoji { size = 32 } or data.shapes { size = 32, n = 64 }
    local H = hierarchy.images()
    assert.is_true(H:check(set) <= 1e-6)
    assert.is_true(H:check(set:subset { 5 }) <= 1e-6)
    local z = H:split(randn { 2, 3, 32, 32 })
    assert.are.equal("2,1,8,8", shape_of(z.shapes))
    assert.are.equal("2,2,8,8", shape_of(z.colours))
    assert.are.equal("2,45,8,8", shape_of(z.textures))
  end)

  it("pictures of one channel have no level of colours", function()
    for _, size in ipairs { 8, 7 } do
      local H = hierarchy.images { size = size, channels = 1 }
      assert.are.same({ "shapes", "textures" }, H:level_names())
      local x = randn { 2, 1, size, size }
      assert.is_true(H:check(x) < 1e-5)
      local frame, z = H:level "textures".frame, H:split(x)
      assert.is_true((frame.from(frame.to(z.textures)) - z.textures):abs():amax():item() < 1e-5)
    end
    local _, text = pcall(hierarchy.images, { channels = 2 })
    assert.matches("channels is wrong: got 2, expected 1 or 3", text, 1, true)
  end)

  it("grey pictures have no colours, plain ones no textures", function()
    local z = hierarchy.images { size = 8 }:split(randn { 2, 1, 8, 8 }:expand(2, 3, 8, 8))
    assert.is_true(z.colours:abs():amax():item() < 1e-6)
    z = hierarchy.images { size = 8 }:split(randn { 2, 3, 1, 1 }:expand(2, 3, 8, 8))
    assert.is_true(z.textures:abs():amax():item() < 1e-6)
    local luma = colour.split(core.ones(1, 3, 1, 1))
    near(math.sqrt(3), luma:item(), 1e-6)
  end)

  it("are orthonormal: unit vectors stay so", function()
    for _, steps in ipairs { 1, 2 } do
      local H = hierarchy.images { size = 4, steps = steps }
      local z = H:split(core.eye(48, { dtype = "f64" }):reshape(48, 3, 4, 4))
      local W = core.op.cat({ z.shapes:reshape(48, -1), z.colours:reshape(48, -1), z.textures:reshape(48, -1) }, 2)
      local difference = W:matmul(W:transpose(1, 2)) - core.eye(48, { dtype = "f64" })
      assert.is_true(difference:abs():amax():item() < 1e-12)
    end
  end)

  it("keep white noise white: unit variance in each channel, no covariance between any two numbers", function()
    local n = 4000
    local z = hierarchy.images { size = 8 }:split(randn { n, 3, 8, 8 })
    for _, name in ipairs { "shapes", "colours", "textures" } do
      local channels = z[name]:size(2)
      local variance = z[name]:square():mean({ 1, 3, 4 })
      -- chi squared with 4 n degrees: 5 standard deviations
      assert.is_true((variance - 1):abs():amax():item() < 5 * math.sqrt(2 / (4 * n)), name)
      z[name] = z[name]:reshape(n, 4 * channels)
    end
    local all = core.op.cat({ z.shapes, z.colours, z.textures }, 2)
    local covariance = all:transpose(1, 2):matmul(all) * (1 / n) - core.eye(192)
    assert.is_true(covariance:abs():amax():item() < 7.5 / math.sqrt(n)) -- the diagonal's deviation is sqrt 2 as large
  end)

  it("the coordinates of the network of textures are isometric", function()
    for _, steps in ipairs { 2, 3 } do
      local H = hierarchy.images { size = 16, steps = steps }
      local z, frame = H:split(randn { 2, 3, 16, 16 }).textures, H:level "textures".frame
      local y = frame.to(z)
      assert.are.equal("2,3,16,16", shape_of(y))
      near(z:norm():item(), y:norm():item(), 1e-4)
      assert.is_true(distance(frame.from(y), z) < 1e-6)
    end
  end)

  it("may be anything that can be undone, of odd sizes too", function()
    local H = hierarchy.new {
      levels = { { name = "mean" }, { name = "rest" } },
      split = function(x)
        local mean = x:mean(3, true)
        return { mean = mean, rest = x - mean }
      end,
      join = function(z) return z.mean + z.rest end,
    }
    assert.is_true(H:check(randn { 1, 2, 13 }) <= 1e-6)
    assert.are.equal("5,2,7", shape_of(H:join(H:split(randn { 5, 2, 7 }))))
  end)

  it("wrong ones are found when declared or on data, with the amount", function()
    local function join(z) return haar.up(z.low, z.high * 0.9) end
    assert.matches("is not x: relative difference", message(signal, { join = join, shape = { 1, 16 } }))
    local x = randn { 4, 1, 16 }
    local amount = 0.1 * signal():split(x).high:norm():item() / x:norm():item()
    local wrong = signal { join = join }
    assert.matches(("is not x: relative difference %.3g"):format(amount), message(wrong.check, wrong, x), 1, true)
    local moved = signal { join = function(z)
      local y = haar.up(z.low, z.high)
      y[{ 3, 1, 5 }] = 7
      return y
    end }
    assert.matches("most at %[3,1,5%]: got 7, expected ", message(moved.check, moved, x))
    local ints = hierarchy.new { levels = { { name = "a" } }, split = function(x_) return { a = x_ } end,
      join = function(z) return z.a:clamp(0, 2) end }
    assert.matches("differs from x in 2 of 5 elements",
      message(ints.check, ints, core.tensor({ { 0, 1, 2, 3, 4 } }, { dtype = "i64" })))
    local cut = hierarchy.new { levels = { { name = "a" } }, split = function(x_) return { a = x_ } end,
      join = function(z) return z.a:narrow(2, 1, 2) end }
    assert.matches("another shape: got %[3,2%], expected %[3,5%]", message(cut.check, cut, randn { 3, 5 }))
  end)
end)

describe("wavelets", function()
  local wavelet = hierarchy.wavelet

  it("have the tabulated filters, orthonormal and with their vanishing moments", function()
    -- Daubechies 1988, table 1
    local first = { db2 = 0.482962913145, db3 = 0.332670552950, db4 = 0.230377813309, db5 = 0.160102397974,
      db6 = 0.111540743350, db7 = 0.077852054085, db8 = 0.054415842243 }
    for _, family in ipairs(wavelet.families) do
      local h, p = wavelet.filter(family), tonumber(family:match "%d" or 1)
      assert.are.equal(2 * p, #h)
      near(first[family] or math.sqrt(0.5), h[1], 1e-11)
      for shift = 0, p - 1 do
        local sum = 0
        for k = 1, #h do sum = sum + h[k] * (h[k + 2 * shift] or 0) end
        near(shift == 0 and 1 or 0, sum, 1e-11)
      end
      for moment = 0, p - 1 do
        local sum, scale = 0, 0
        for k = 1, #h do
          sum = sum + (-1) ^ k * h[#h + 1 - k] * k ^ moment
          scale = scale + math.abs(h[k]) * k ^ moment
        end
        assert.is_true(math.abs(sum) < 1e-7 * scale, family)
      end
    end
  end)

  it("rebuild signals and pictures, even ones shorter than the filter; unit vectors stay so", function()
    for _, family in ipairs(wavelet.families) do
      for _, shape in ipairs { { 2, 3, 16 }, { 1, 2, 8, 12 }, { 1, 1, 4, 4 } } do
        local x = randn(shape)
        local low, details = wavelet.split(x, 2, family)
        assert.is_true(distance(wavelet.join(low, details, family), x) < 1e-6, family)
        assert.are.equal(shape[#shape] // 4, low:size(-1))
      end
      local low, detail = wavelet.down(core.eye(36, { dtype = "f64" }):reshape(36, 1, 6, 6), family)
      local W = core.op.cat({ low:reshape(36, -1), detail:reshape(36, -1) }, 2)
      local difference = W:matmul(W:transpose(1, 2)) - core.eye(36, { dtype = "f64" })
      assert.is_true(difference:abs():amax():item() < 1e-11, family)
    end
    assert.matches("family is wrong: got 'db9'. did you mean 'db", message(wavelet.down, randn { 1, 1, 8 }, "db9"))
    assert.matches("an extent is odd: got %[1,1,7%]", message(wavelet.down, randn { 1, 1, 7 }, "db2"))
  end)

  it("smooth signals have fewer details in longer ones", function()
    local t = core.arange(0, 63, { dtype = "f64" }):view(1, 1, 64)
    local x, before = (t * (2 * math.pi / 64)):sin(), math.huge
    for _, family in ipairs { "haar", "db2", "db4" } do
      local _, detail = wavelet.down(x, family)
      assert.is_true(detail:norm():item() < 0.3 * before, family)
      before = detail:norm():item()
    end
  end)

  it("make levels of pictures of any size, with the crop recorded", function()
    for _, family in ipairs { "haar", "db3" } do
      for _, size in ipairs { 5, 30, 33 } do
        local H = hierarchy.images { size = size, wavelet = family }
        local whole = (size + 3) // 4 * 4
        assert.are.same({ size = size, whole = whole }, H.crop)
        assert.is_true(H:check(randn { 2, 3, size, size }) <= 1e-5)
        local shapes = H:split(randn { 2, 3, size, size }).shapes
        assert.are.equal(("2,1,%d,%d"):format(whole // 4, whole // 4), shape_of(shapes))
      end
    end
    assert.are.same({ size = 32, whole = 32 }, hierarchy.images().crop)
    assert.is_true(hierarchy.images { size = 128, steps = 3, wavelet = "db4" }:check(randn { 1, 3, 128, 128 }) < 1e-5)
  end)
end)

describe("other levels", function()
  it("residual ones are exact for any way down and up", function()
    local split, join = hierarchy.residual { names = { "a", "b", "c" } }
    local x = randn { 2, 3, 8, 8 }
    local z = split(x)
    assert.are.same({ "2,3,2,2", "2,3,4,4", "2,3,8,8" }, { shape_of(z.a), shape_of(z.b), shape_of(z.c) })
    assert.is_true(distance(join(z), x) < 1e-6)
    local odd_split, odd_join = hierarchy.residual { names = { "a", "b" },
      down = function(y) return y:narrow(3, 1, 3):tanh() end,
      up = function(y, like) return y:mean(3, true):expand(like:shape()) end }
    local odd = randn { 2, 1, 7 }
    assert.is_true(distance(odd_join(odd_split(odd)), odd) < 1e-6)
    assert.matches("names is wrong: got 1", message(hierarchy.residual, { names = { "a" } }))
  end)

  it("drawn residual levels that contradict are projected", function()
    local split, join, project = hierarchy.residual { names = { "a", "b", "c" } }
    local levels = { { name = "a" }, { name = "b" }, { name = "c" } }
    local H = hierarchy.new { split = split, join = join, levels = levels, shape = { 1, 8, 8 } }
    local drawn = { a = randn { 2, 1, 2, 2 }, b = randn({ 2, 1, 4, 4 }, 2), c = randn({ 2, 1, 8, 8 }, 3) }
    assert.is_true(H:consistency(drawn) > 0.2)
    local fixed = project(drawn)
    assert.is_true(H:consistency(fixed) < 1e-6)
    assert.is_true(fixed.a:equal(drawn.a))
    assert.is_true(H:consistency(H:split(randn { 2, 1, 8, 8 })) < 1e-6)
    local P = hierarchy.new { split = split, join = join, levels = levels, shape = { 1, 8, 8 }, project = project }
    local denoise = {}
    for _, name in ipairs { "a", "b", "c" } do denoise[name] = function(y) return y * 0.3 end end
    local z = P:split(P:sample(nil, 2, { steps = 2, denoise = denoise }))
    assert.is_true(distance(z.a, H:split(H:sample(nil, 2, { steps = 2, denoise = denoise })).a) > 1e-3)
  end)

  it("summaries say something of x that join does not need", function()
    local split, join = hierarchy.summary(signal().split_fn, signal().join_fn,
      { mean = function(x) return x:mean(3, true) end })
    local H = hierarchy.new { split = split, join = join, shape = { 1, 16 },
      levels = { { name = "mean" }, { name = "low" }, { name = "high" } } }
    assert.are.same({ 1, 1 }, H.shapes.mean)
    assert.are.same({ "mean", "low" }, H:level "high".context)
    assert.is_true(H:check(randn { 3, 1, 16 }) < 1e-6)
  end)

  it("that hold more than x are limited without being changed otherwise", function()
    local split, join = hierarchy.summary(signal().split_fn, signal().join_fn,
      { plan = function(x) return x:mean(3, true) * 3 end })
    local H = hierarchy.new { split = split, join = join, shape = { 1, 16 }, range = { -1, 1 }, t_aug_sample = 0,
      levels = { { name = "plan" }, { name = "low" }, { name = "high" } } }
    local models = H:models { net = function() return function(z) return z * 0 end end }
    local z = {}
    H:sample(models, 8, { steps = 2, on_level = function(name, value) z[name] = value end })
    assert.is_true(z.plan:abs():amax():item() > 0.1) -- that of zeros is 0
    assert.is_true(H:join(z):abs():amax():item() < 2.001) -- the last level alone gives way: 1 beyond at most
  end)

  it("learned ones are exact before and after learning", function()
    core.seed(1)
    local auto = hierarchy.autoencoder { channels = 1, code = 2, width = 8 }
    local split, join = auto:levels("code", "rest")
    local H = hierarchy.new { split = split, join = join, shape = { 1, 8, 8 },
      levels = { { name = "code" }, { name = "rest" } } }
    local x = core.op.interpolate(randn { 16, 1, 2, 2 }, { size = { 8, 8 }, mode = "nearest" })
    local opt = optim.AdamW(auto:parameters(), { lr = 1e-2 })
    local before
    for _ = 1, 40 do
      local loss = auto:loss(x)
      before = before or loss:item()
      opt:zero_grad() loss:backward() opt:step()
    end
    assert.is_true(auto:loss(x):item() < 0.5 * before)
    assert.is_true(H:check(x) < 1e-6)
    assert.is_false(H:split(x).code:requires_grad())
    assert.are.equal("16,2,2,2", shape_of(H:split(x).code))
  end)
end)

describe("declaring", function()
  local function refused(levels, opts)
    local o = { levels = levels, split = print, join = print }
    for key, value in next, opts or {} do o[key] = value end
    return message(hierarchy.new, o)
  end

  it("fills in the defaults", function()
    local H = signal { shape = { 1, 16 } }
    local high = H:level "high"
    assert.are.same({ "low", "high" }, H:level_names())
    assert.are.same({ "low" }, high.context)
    assert.are.same({}, H:level "low".context)
    assert.are.equal("gaussian edm 18 1", table.concat({ high.kind, high.predict, high.steps, high.weight }, " "))
    assert.are.equal("cascade", H.regime)
    assert.matches("high +gaussian +%[1,8%] +sees low", tostring(H))
  end)

  it("refuses what cannot be", function()
    assert.matches("there are no levels", refused {})
    assert.matches("two levels have the name 'a'", refused { { name = "a" }, { name = "b" }, { name = "a" } })
    assert.matches("the name 'flat' is taken", refused { { name = "flat" } })
    assert.matches("level 'a' has 'b' as context: expected coarser levels of its kind only %(there are none%)",
      refused { { name = "a", context = { "b" } }, { name = "b" } })
    assert.matches("level 'c' has 'd' as context: .* %(a, b%)",
      refused { { name = "a" }, { name = "b" }, { name = "c", context = { "a", "d" } } })
    assert.matches("level 'b' has 'a' as context: .* %(there are none%)",
      refused { { name = "a" }, { name = "b", kind = "mask", vocab = 3, context = { "a" } } })
    assert.matches("level 'a' is of kind mask and needs vocab", refused { { name = "a", kind = "mask" } })
    assert.matches("level 'b' has a vocabulary of its own: got 4 tokens, expected 3",
      refused { { name = "a", kind = "mask", vocab = 3 }, { name = "b", kind = "mask", vocab = 4 } })
    assert.matches("steps is wrong: got 0, expected at least 1", refused { { name = "a", steps = 0 } })
    assert.matches("level 2: unknown option 'contxt'. did you mean 'context'",
      refused { { name = "a" }, { name = "b", contxt = {} } })
    assert.matches("option 'kind' is wrong: got 'masked'. did you mean 'mask'",
      refused { { name = "a", kind = "masked" } })
    assert.matches("option 'regime' is wrong: got 'cascades'. did you mean 'cascade'",
      refused({ { name = "a" } }, { regime = "cascades" }))
    assert.matches("option 'split' is missing", message(hierarchy.new, { levels = {} }))
    assert.matches("size is wrong: got 3, expected at least 4", message(hierarchy.images, { size = 3 }))
    assert.matches("level 'a': batch_share is wrong: got 0", refused { { name = "a", batch_share = 0 } })
    assert.matches("option 'context_by' is wrong: got 'concatt'. did you mean 'concat'",
      refused { { name = "a" }, { name = "b", context_by = "concatt" } })
    assert.matches("lag is wrong: got 2", refused({ { name = "a" } }, { lag = 2 }))
  end)

  it("wants of split every level and no other, of join all of them", function()
    local function split_giving(z) return signal { split = function() return z end } end
    local x = randn { 2, 1, 16 }
    local function try(z)
      local H = split_giving(z)
      return message(H.split, H, x)
    end
    assert.matches("split gave nil for level 'high', expected a tensor", try { low = x })
    assert.matches("there is no level 'hihg'. did you mean 'high'", try { low = x, high = x, hihg = x })
    assert.matches("what split gave is wrong: got tensor f32", try(x))
    local H = signal()
    assert.matches("level 'high' is wrong: got nil, expected tensor", message(H.join, H, { low = x }))
    assert.matches("an extent is odd: got %[2,1,15%]", message(H.split, H, randn { 2, 1, 15 }))
    assert.matches("data is wrong: got 3, expected a tensor or a data set", message(H.check, H, 3))
  end)

  it("names the nearest level for an unknown one", function()
    local H = signal()
    assert.matches("there is no level 'hig'. did you mean 'high'%? known: low, high", message(H.level, H, "hig"))
  end)
end)

describe("statistics", function()
  local function sample_data()
    local x = randn { 200, 2, 16 }
    x:narrow(2, 1, 1):mul_(3):add_(5)
    x:narrow(2, 2, 1):mul_(0.2):sub_(1)
    return x
  end

  it("give each channel of each level mean 0 and variance 1", function()
    local H, x = signal(), sample_data()
    assert.are.equal(H, H:fit_stats(x))
    local z = H:split(x)
    z.flat = x
    for _, name in ipairs { "low", "high", "flat" } do
      local s = H:standardise(name, z[name])
      assert.is_true(s:mean({ 1, 3 }):abs():amax():item() < 1e-5, name)
      assert.is_true((s:square():mean({ 1, 3 }) - 1):abs():amax():item() < 1e-4, name)
      assert.is_true(distance(H:unstandardise(name, s), z[name]) < 1e-6, name)
    end
    near(5 * math.sqrt(2), H.stats.low.mean:get(1), 0.1)
  end)

  it("of one entry are those of its positions", function()
    local H, x = signal():fit_stats(sample_data():narrow(1, 1, 1)), sample_data()
    assert.is_true(H.stats.low.std:amin():item() > 0)
    assert.is_true(H:standardise("high", H:split(x).high):abs():amax():item() < 100)
    H = hierarchy.images { size = 8 }:fit_stats(data.shapes { size = 8, n = 1 })
    assert.is_true(H:sample(H:models { width = 8 }, 1, { steps = 1 }):isfinite():all():item())
  end)

  it("say how far a level is from white, and may move its schedule by that", function()
    local white = randn { 400, 1, 16 }
    local smooth = white:cumsum(3)
    local level = { { name = "a" } }
    local function one() return hierarchy.new { split = function(x) return { a = x } end,
      join = function(z) return z.a end, levels = level } end
    local H = one():fit_stats(white)
    near(1, H.shifts.a, 0.01)
    H = one():fit_stats(smooth)
    assert.is_true(H.shifts.a > 1.5)
    assert.matches("mean %-?[%d.e-]+, std [%d.]+, spectrum %d%.%d%d", tostring(H))
    near(80, H:level "a".schedule:level(1), 1e-9)
    near(80 * H.shifts.a, one():fit_stats(smooth, { shift = true }):level "a".schedule:level(1), 1e-6)
  end)

  it("are what samples are compared with", function()
    local H, x = signal():fit_stats(sample_data()), sample_data()
    local drift = H:drift(x)
    near(0, drift.low.mean, 1e-4)
    near(1, drift.high.energy, 1e-3)
    local z = H:split(x)
    drift = H:drift(H:join { low = z.low + H.stats.low.std:view(1, 2, 1) * 0.5, high = z.high * 2 })
    near(0.5, drift.low.mean, 1e-3)
    near(4, drift.high.energy, 1e-2)
  end)

  it("keep the scale of a channel that never changes", function()
    local H, x = signal(), sample_data()
    x:narrow(2, 2, 1):mul_(0):add_(4)
    H:fit_stats(x)
    near(1, H.stats.flat.std:get(2), 0)
    local s = H:standardise("flat", x):narrow(2, 2, 1)
    assert.is_true(s:abs():amax():item() < 1e-5)
  end)

  it("look at the first n entries and refuse what is not finite", function()
    local H, x = signal(), sample_data()
    local few = signal():fit_stats(x:narrow(1, 1, 50))
    H:fit_stats(x, { n = 50 })
    assert.is_true(H.stats.high.std:equal(few.stats.high.std))
    x:set(1, 2, 1, 0 / 0)
    assert.matches("channel 2 of 'low' holds values that are not finite", message(H.fit_stats, H, x))
  end)

  it("are set by hand: numbers, lists or tensors, for tensors of any rank", function()
    local H = signal():set_stats { low = { mean = 1, std = 2 }, high = { std = { 2, 4 } },
      flat = { mean = core.tensor { 1, 2 } } }
    assert.are.same({ 1, 1 }, H:standardise("low", core.tensor { { 3, 3 } }):totable()[1])
    assert.are.same({ { { { 4 } }, { { 2 } } } }, H:standardise("high", core.full({ 1, 2, 1, 1 }, 8)):totable())
    assert.are.same({ { { 3, 3 }, { 4, 4 } } }, H:unstandardise("flat", core.full({ 1, 2, 2 }, 2)):totable())
    assert.are.equal("f64", H:standardise("high", core.ones({ 1, 2, 1 }, { dtype = "f64" })):dtype())
    assert.matches("there is no level 'hgih'. did you mean 'high'", message(H.set_stats, H, { hgih = {} }))
    assert.matches("std of 'low' is wrong: got 0", message(H.set_stats, H, { low = { std = 0 } }))
    assert.matches("unknown option 'sdt'", message(H.set_stats, H, { low = { sdt = 1 } }))
  end)

  it("go through a file", function()
    local H, x = signal():fit_stats(sample_data()), sample_data()
    H:set_stats { high = { std = 3 } }
    local other = signal():load_stats_dict(H:stats_dict())
    for _, name in ipairs { "low", "high", "flat" } do
      assert.is_true(other:standardise(name, x):equal(H:standardise(name, x)), name)
    end
  end)
end)
