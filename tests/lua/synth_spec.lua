-- hd.data.synth: every clip is what set.about says of it, held against formulas of its own and measured by projection
-- onto sines and cosines.

local hd = require "hd"
local fails = require "tests.lua.fails"

local RATE, LENGTH = 8000, 8192
local TAU = 2 * math.pi
local set = hd.data.synth { n = 200, seed = 3 }
local seconds = hd.arange(0, LENGTH - 1, { dtype = "f64" }) / RATE

local function clip(i) return set:get(i)[1]:to "f64" end

-- One clip of a class at least, and no more than three.
local function each(class, fn)
  local found = 0
  for i, about in ipairs(set.about) do
    if about.class == class and found < 3 then
      found = found + 1
      fn(clip(i), about)
    end
  end
  assert.are.equal(3, found)
end

-- Magnitude of x's projection onto each frequency, in hertz, over frames first to last.
local function spectrum(x, frequencies, first, last)
  first, last = first or 1, last or LENGTH
  local t = seconds:narrow(1, first, last - first + 1)
  local angle = t:unsqueeze(2):matmul(hd.tensor({ frequencies }, { dtype = "f64" })) * TAU
  local part = x:narrow(1, first, last - first + 1):unsqueeze(1)
  return (part:matmul(angle:cos()):square() + part:matmul(angle:sin()):square()):squeeze(1):sqrt()
end

-- Energy at all frequencies from low to high that the clip tells apart.
local function energy(x, low, high)
  local list, frames = {}, x:size(1)
  for k = math.ceil(low * frames / RATE), math.floor(high * frames / RATE) do list[#list + 1] = k * RATE / frames end
  return spectrum(x, list, 1, frames):square():sum():item()
end

-- The sound without its fall.
local function steady(x, decay) return x * (seconds / decay):exp() end

local SLOPE = 0.011 * RATE -- half of what a band's edges take

-- All but a thousandth of x's energy, under Hann's window, lies in the band.
local function assert_in_band(x, about)
  local frames = x:size(1)
  local windowed = x * (1 - (hd.arange(0, frames - 1, { dtype = "f64" }) * (TAU / frames)):cos())
  local share = energy(windowed, about.low - SLOPE, about.high + SLOPE) / energy(windowed, 0, RATE / 2)
  assert.is_true(share > 0.999, ("%g of the energy is in the band"):format(share))
end

local STRINGS = { "bass", "guitar", "harp", "banjo" }
local MODES = { 1, 1.5933, 2.1355, 2.2954, 2.6531, 2.9173 }

-- { frequency, strength, decay } of each ring, as the documentation gives them.
local function partials(about)
  local list = {}
  for k = 1, 40 do
    local frequency = k * about.frequency * math.sqrt(1 + about.inharmonicity * k ^ 2)
    if frequency < 0.45 * RATE then
      list[#list + 1] = { frequency, math.sin(math.pi * k * about.position) / k ^ 2,
        about.decay / (1 + about.damping * (k - 1)) }
    end
  end
  return list
end

local function modes(about)
  local list = {}
  for i, r in ipairs(MODES) do list[i] = { r * about.frequency, r ^ -about.softness, about.decay / r } end
  return list
end

local function sum_of(rings)
  local x = hd.zeros({ LENGTH }, { dtype = "f64" })
  for _, ring in ipairs(rings) do
    local frequency, strength, decay = table.unpack(ring)
    x = x + (seconds * (TAU * frequency)):sin() * (seconds * (-1 / decay)):exp() * strength
  end
  return x
end

-- Equal but for the scale, which gives a peak of 1.
local function assert_same(expected, x)
  local miss = (expected / expected:abs():amax() - x):abs():amax():item()
  assert.is_true(miss < 1e-5, ("differs by %g of the peak"):format(miss))
end

describe("hd.data.synth", function()
  it("gives clips of a peak of 1 with labels, classes and what they are made of", function()
    assert.are.equal("synth: 200 clips f32 [1,8192]", tostring(set))
    assert.are.equal(8000, set.rate)
    assert.are.same({ "bass", "guitar", "harp", "banjo", "kick", "snare", "tom", "hat" }, set.classes)
    local peaks = set.x:abs():amax(3)
    assert.is_true((peaks - 1):abs():amax():item() < 1e-6)
    for i, label in ipairs(set.labels:totable()) do assert.are.equal(set.classes[label], set.about[i].class) end
  end)

  it("makes clip i from the seed and i alone", function()
    local few, other = hd.data.synth { n = 30, seed = 3 }, hd.data.synth { n = 30, seed = 4 }
    assert.is_true(few.x:equal(set.x:narrow(1, 1, 30)))
    assert.are.same(set.about[30], few.about[30])
    assert.is_false(few.x:equal(other.x))
    local before = hd.threads()
    hd.threads(2)
    assert.is_true(hd.data.synth { n = 30, seed = 3 }.x:equal(few.x))
    hd.threads(before)
  end)

  it("keeps what is known of each in subsets", function()
    local part = set:subset { 7, 2 }
    assert.are.same({ set.about[7], set.about[2] }, part.about)
    assert.is_true(part:get(1):equal((set:get(7))))
  end)

  it("sums the partials of plucked strings and the modes of a membrane", function()
    for _, class in ipairs(STRINGS) do
      each(class, function(x, about) assert_same(sum_of(partials(about)), x) end)
    end
    each("tom", function(x, about) assert_same(sum_of(modes(about)), x) end)
  end)

  it("has a string's energy at its partials, which fall as they should", function()
    each("banjo", function(x, about)
      local all, near = energy(x, 20, RATE / 2), 0
      for _, ring in ipairs(partials(about)) do near = near + energy(x, ring[1] - 30, ring[1] + 30) end
      assert.is_true(near / all > 0.9, ("%.3f of the energy is at partials"):format(near / all))
    end)
    each("harp", function(x, about) -- in the quarter from one half on, beside the first quarter
      local first = partials(about)[1]
      local one = spectrum(x, { first[1] }, 1, LENGTH // 4):item()
      local two = spectrum(x, { first[1] }, LENGTH // 2 + 1, 3 * LENGTH // 4):item()
      local decay = -LENGTH / 2 / RATE / math.log(two / one)
      assert.is_true(math.abs(decay / first[3] - 1) < 0.05, ("decay %g s, expected %g"):format(decay, first[3]))
    end)
  end)

  it("lets the pitch of a kick fall", function()
    each("kick", function(x, about)
      local turns = seconds + (1 - (seconds / -about.sweep):exp()) * (about.drop * about.sweep)
      assert_same((turns * (TAU * about.frequency)):sin() * (seconds / -about.decay):exp(), x)
    end)
  end)

  it("has noise in its band alone, falling as it should", function()
    local early, late = 0, 0
    each("hat", function(x, about)
      local noise = steady(x, about.decay)
      assert_in_band(noise, about)
      assert.is_true(about.high + SLOPE < 0.45 * RATE)
      early = early + noise:narrow(1, 1, LENGTH // 2):square():mean():item()
      late = late + noise:narrow(1, LENGTH // 2 + 1, LENGTH // 2):square():mean():item()
    end)
    assert.is_true(math.abs(late / early - 1) < 0.15, ("%g of the energy"):format(late / early))
  end)

  it("has a snare's noise beside the modes of its membrane", function()
    each("snare", function(x, about)
      local rings = sum_of(modes(about))
      local scale = spectrum(rings, { about.frequency }) / spectrum(x, { about.frequency })
      local noise = steady((x * scale - rings), about.noise_decay):narrow(1, 1, 2048)
      assert_in_band(noise, about)
      local deviation = noise:std():item()
      assert.is_true(math.abs(deviation / about.noise - 1) < 0.1,
        ("deviation %g, expected %g"):format(deviation, about.noise))
    end)
  end)

  it("has next to nothing above 0.45 of the rate, to which bands move down", function()
    local rate = 4000
    local slow = hd.data.synth { rate = rate, length = rate, n = 100, seed = 3 }
    local t = hd.arange(0, rate - 1, { dtype = "f64" }):unsqueeze(2) * (TAU / rate)
    local angle = t * hd.arange(0, rate // 2, { dtype = "f64" }):unsqueeze(1) -- a hertz apart
    local x = slow.x:view(100, rate)
    local power = x:matmul(angle:cos():to "f32"):square() + x:matmul(angle:sin():to "f32"):square()
    local edge = math.ceil(0.461 * rate) -- with half of the slope
    local share = power:narrow(2, edge + 1, rate // 2 - edge + 1):sum(2) / power:sum(2)
    assert.is_true(share:amax():item() < 0.02)
    for i, about in ipairs(slow.about) do
      if about.high then assert.are.equal(set.about[i].high / 2, about.high) end
      if about.position then assert.is_true(share[i] < 1e-3) end
    end
    assert.are.same({ 2, 1, 64 }, hd.data.synth { rate = 192000, length = 64, n = 2 }.x:shape())
  end)

  it("has classes that their spectra tell apart", function()
    local many, bands, each_band, columns = hd.data.synth { n = 500, seed = 5 }, 24, 16, {}
    local x, t = many.x:view(500, LENGTH), seconds:unsqueeze(2) * TAU
    for j = 1, bands do -- a sixth of an octave or so, from 40 Hz on
      local list = {}
      for k = 1, each_band do list[k] = 40 * 100 ^ ((j - 1 + (k - 0.5) / each_band) / bands) end
      local angle = t * hd.tensor({ list }, { dtype = "f64" })
      local energies = x:matmul(angle:cos():to "f32"):square() + x:matmul(angle:sin():to "f32"):square()
      columns[j] = energies:sum(2, true) * list[1] -- for the width
    end
    local bars = hd.cat(columns, 2)
    bars = (bars / bars:sum(2, true) + 1e-6):log()
    local labels, sums, counts = many.labels:totable(), hd.zeros { 8, bands }, hd.zeros { 8, 1 }
    for i = 1, 250 do
      sums[labels[i]]:add_(bars[i])
      counts[labels[i]]:add_(1)
    end
    local right, centres = 0, sums / counts
    for i = 251, 500 do
      if (centres - bars[i]):square():sum(2):argmin(1):item() == labels[i] then right = right + 1 end
    end
    assert.is_true(right > 0.8 * 250, ("%d of 250 are nearest to their class"):format(right))
  end)

  it("refuses impossible options", function()
    fails("did you mean 'length'?", hd.data.synth, { lenght = 3 })
    fails("rate is wrong: got 3999, expected 4000 to 192000", hd.data.synth, { rate = 3999 })
    fails("length is wrong: got 63, expected 64 to 4194304", hd.data.synth, { length = 63 })
    fails("n is wrong: got 0, expected 1 to 65536", hd.data.synth, { n = 0 })
    fails("too large: got 65 clips of 4194304 frames, expected at most 268435456", hd.data.synth,
      { n = 65, length = 1 << 22 })
  end)
end)
