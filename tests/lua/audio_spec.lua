-- hd.audio: WAV, FLAC, OGG and AIFF in and out, other rates, spectrograms.

local hd = require "hd"
local fails = require "tests.lua.fails"
local robust = require "tests.lua.robust"
local sandbox = require "tests.lua.sandbox"

local path, write = sandbox.path, sandbox.write

before_each(function() sandbox.open {} end)
after_each(sandbox.close)

-- A WAV file by hand: PCM of `bits`, with `data` behind the header.
local function wav(o, data)
  local channels, rate, bits = o.channels or 1, o.rate or 8000, o.bits or 16
  local format = ("<I2I2I4I4I2I2"):pack(o.tag or 1, channels, rate, rate * channels * bits // 8, channels * bits // 8,
    bits)
  return "RIFF" .. ("<I4"):pack(36 + #data) .. "WAVEfmt " .. ("<I4"):pack(16) .. format .. "data" ..
    ("<I4"):pack(o.size or #data) .. data
end

local function refused(words, name, bytes)
  local x, message = hd.audio.load(write(name, bytes))
  assert.is_nil(x)
  assert.matches(words, message, 1, true)
  assert.matches(name, message, 1, true)
end

local function wave(frames, cycles)
  return (hd.arange(0, frames - 1, { dtype = "f64" }) * (2 * math.pi * cycles / frames)):sin():to "f32" * 0.5
end

describe("hd.audio.save and load", function()
  for _, case in ipairs { { "a.wav", 16 }, { "a.wav", 24 }, { "a.wav", 32 }, { "a.flac", 16 }, { "a.flac", 24 },
    { "a.aiff", 16 }, { "a.aif", 32 } } do
    it(("keep sounds to half a step of %d bits in %s"):format(case[2], case[1]), function()
      local x = hd.stack { wave(300, 5), wave(300, 9) }
      assert.is_true(hd.audio.save(path(case[1]), x, 44100, { bits = case[2] }))
      local back, rate = assert(hd.audio.load(path(case[1])))
      assert.are.equal(44100, rate)
      assert.are.same({ 2, 300 }, back:shape())
      assert.are.equal("f32", back:dtype())
      assert.is_true((back - x):abs():amax():item() <= (case[2] == 32 and 0 or 2.0 ^ (1 - case[2])))
    end)
  end

  it("keep what OGG keeps, and of WAV the same bytes each time", function()
    local x = wave(8000, 200)
    assert(hd.audio.save(path "a.ogg", x, 8000))
    local back = assert(hd.audio.load(path "a.ogg")):narrow(2, 1, 8000)[1]
    assert.is_true((back - x):norm():item() < 0.05 * x:norm():item())
    assert(hd.audio.save(path "a.wav", x, 8000, { bits = 32 }))
    assert(hd.audio.save(path "b.wav", x, 8000, { bits = 32 }))
    assert.are.equal(0, select(3, os.execute(("cmp -s %s %s"):format(path "a.wav", path "b.wav"))))
  end)

  it("read what a WAV file says, sample by sample", function()
    local x, rate = hd.audio.load(write("a.wav", wav({ channels = 2, rate = 11025 }, ("<i2i2i2i2"):pack(1, -1, 32767,
      -32768))))
    assert.are.equal(11025, rate)
    assert.are.same({ { 1 / 32768, 32767 / 32768 }, { -1 / 32768, -1 } }, x:totable())
    assert.are.same({ { -1, 0, 127 / 128 } }, hd.audio.load(write("b.wav", wav({ bits = 8 }, "\0\128\255"))):totable())
    x = hd.audio.load(write("c.wav", wav({ bits = 24 }, ("<i3i3"):pack(1, -2 ^ 23 // 1 | 0))))
    assert.are.same({ { 2.0 ^ -23, -1 } }, x:totable())
  end)

  it("clip what is outside of full scale", function()
    assert(hd.audio.save(path "a.wav", hd.tensor { 3, -3, 0 }, 8000))
    assert.are.same({ { 32767 / 32768, -1, 0 } }, hd.audio.load(path "a.wav"):totable())
  end)

  it("give what is there of a file that ends early", function()
    local x = assert(hd.audio.load(write("a.wav", wav({ size = 1 << 30 }, ("<i2"):rep(3):pack(1, 2, 3)))))
    assert.are.equal(3, x:size(2))
  end)

  it("refuse files that are none, empty or beyond all measure", function()
    refused("not a sound: expected a WAV, FLAC, OGG or AIFF file", "empty.wav", "")
    refused("not a sound", "text.wav", ("words "):rep(20))
    refused("the sound is empty: got 0 frames", "silent.wav", wav({}, ""))
    refused("bad sound file", "mp3.wav", wav({ tag = 0x55 }, "12345678"))
    refused("channels", "many.wav", wav({ channels = 65 }, ("\0"):rep(65 * 2 * 4)))
    refused("value 2 is not finite", "nan.wav", wav({ tag = 3, bits = 32 }, ("<ff"):pack(0, 0 / 0)))
    assert.matches("No such file", select(2, hd.audio.load(path "none.wav")), 1, true)
  end)

  it("name the fault at the user's line", function()
    local x = wave(100, 3)
    fails("the extension is wrong: got 'a.mp3'", hd.audio.save, "a.mp3", x, 8000)
    fails("bits is wrong: got 32, expected 16, 24", hd.audio.save, "a.flac", x, 8000, { bits = 32 })
    fails("the sampling rate is wrong: got 0", hd.audio.save, path "a.wav", x, 0)
    fails("got f32 [1,2,3], expected f32 [channels,frames]", hd.audio.save, path "a.wav", hd.zeros { 1, 2, 3 }, 8000)
    fails("not empty", hd.audio.save, path "a.wav", hd.zeros { 1, 0 }, 8000)
    local done, message = hd.audio.save(path "a.wav", hd.tensor { 0, 0 / 0 }, 8000)
    assert.is_nil(done)
    assert.matches("value 2 is not finite", message, 1, true)
    done, message = hd.audio.save("/no/such/a.wav", x, 8000)
    assert.is_nil(done)
    assert.matches("/no/such", message, 1, true)
  end)

  it("read or refuse the odd files of others", function()
    local n, reason = robust.decide("wav", function(file)
      local x, rate = hd.audio.load(file)
      return x and { x = x, rate = rate }, rate
    end, function(entry, got)
      local channels, rate, frames = entry.reading:match "ch (%d+) rate (%d+) bits %d+ frames (%d+)"
      if channels and entry.expected == "accept" then
        assert.are.same({ tonumber(channels), tonumber(frames) }, got.x:shape())
        assert.are.equal(tonumber(rate), got.rate)
      end
    end)
    if not n then return pending(reason) end
  end)
end)

describe("hd.audio.resample", function()
  it("keeps tones below the cut, and their length", function()
    local x = wave(4000, 400) -- 800 Hz at 8 kHz
    for _, rate in ipairs { 11025, 16000, 44100, 6000 } do
      local there = hd.audio.resample(x, 8000, rate)
      assert.are.equal(math.ceil(4000 * rate / 8000), there:size(1))
      local back = hd.audio.resample(there, rate, 8000)
      assert.is_true((back:narrow(1, 1, 4000) - x):narrow(1, 200, 3600):abs():amax():item() < 1e-4)
    end
  end)

  it("takes away what the lower rate cannot hold", function()
    local x = hd.stack { wave(4000, 1800), wave(4000, 100) } -- 3.6 kHz and 200 Hz
    local y = hd.audio.resample(x, 8000, 4000):narrow(2, 100, 1800)
    assert.is_true(y[1]:abs():amax():item() < 1e-4)
    assert.is_true(math.abs(y[2]:abs():amax():item() - 0.5) < 1e-3)
  end)

  it("takes any pair of rates, and refuses others", function()
    assert.are.same({ 1, 8 }, hd.audio.resample(hd.zeros { 1, 999983 // 125000 }, 7919, 8009):shape())
    assert.are.same({ 1 }, hd.audio.resample(hd.zeros { 1 }, 1000000, 1):shape())
    fails("the sampling rate is wrong: got 0", hd.audio.resample, hd.zeros { 4 }, 0, 8000)
    fails("the sound would be too long", hd.audio.resample, hd.zeros { 1000 }, 1, 1000000)
  end)
end)

describe("hd.audio.spectrogram", function()
  it("has white noise's variance in every bin, and a tone in its own", function()
    hd.seed(3)
    local p = hd.audio.spectrogram(hd.randn { 4, 8192 } * 0.5)
    assert.are.same({ 4, 128, 128 }, p:shape())
    assert.is_true(math.abs(p:mean():item() - 0.25) < 0.01)
    local tone = (hd.arange(0, 8191):to "f64" * (2 * math.pi / 8)):sin():to "f32" * 0.5
    p = hd.audio.spectrogram(tone, { size = 128, hop = 32 })[1]
    assert.are.equal(16, p:narrow(2, 100, 1):reshape(-1):argmax(1):item()) -- 1/8 of the rate of 128
    assert.is_true(math.abs(p:narrow(1, 16, 1):narrow(2, 100, 1):item() / (0.25 * 128 / 6) - 1) < 1e-3)
    assert.are.equal(32, hd.audio.spectrogram(hd.zeros { 2, 1, 1001 }, { size = 64, hop = 32 }):size(3))
  end)

  it("sums bins to mel bands without gaps", function()
    local p = hd.audio.spectrogram(hd.ones { 1, 4 } * 0, { size = 4, hop = 4 })
    assert.are.equal(0, p:abs():amax():item())
    hd.seed(3)
    local x = hd.randn { 8, 4096 }
    local bands = hd.audio.spectrogram(x, { bands = 40, rate = 8000 }):mean { 1, 3 }
    assert.are.equal(40, bands:size(1))
    assert.is_true((bands - 1):abs():amax():item() < 0.2)
  end)

  it("becomes pictures: low tones below, silence black", function()
    local low = (hd.arange(0, 2047):to "f64" * (2 * math.pi / 64)):sin():to "f32"
    local y = hd.audio.picture(hd.stack { low, low * 0 })
    assert.are.same({ 2, 1, 128, 32 }, y:shape())
    assert.are.equal(128 - 4 + 1, y[1][1]:narrow(2, 16, 1):reshape(-1):argmax(1):item())
    assert.is_true(y[1]:amax():item() > 0.9)
    assert.are.equal(-1, y[2]:amax():item())
  end)

  it("tells bands apart in decibels", function()
    hd.seed(3)
    local real = hd.randn { 8, 1, 4096 }
    local same = hd.audio.band_difference(real, real * 2, { rate = 8000, edges = { 1000, 4000 } })
    for i = 1, 2 do assert.is_true(math.abs(same[i] - 20 * math.log(2, 10)) < 1e-4) end
    local low = (hd.arange(0, 4095):to "f64" * (2 * math.pi * 500 / 8000)):sin():to "f32":view(1, 1, -1)
    local found = hd.audio.band_difference(low, low + real:narrow(1, 1, 1) * 0.1,
      { rate = 8000, edges = { 1000, 4000 } })
    assert.is_true(math.abs(found[1]) < 0.2 and found[2] > 10, ("%g %g"):format(found[1], found[2]))
  end)

  it("refuses what has no spectrum", function()
    local x = hd.zeros { 1, 512 }
    fails("expected sounds [frames], [n,frames] or [n,1,frames]", hd.audio.spectrogram, hd.zeros { 1, 2, 8 })
    fails("size or hop is wrong: got 256 and 100", hd.audio.spectrogram, x, { hop = 100 })
    fails("too short: got 8 frames, expected at least 64", hd.audio.picture, hd.zeros { 8 })
    fails("bands need the rate", hd.audio.spectrogram, x, { bands = 4 })
    fails("bands is wrong: got 200, expected 1 to 128", hd.audio.spectrogram, x, { bands = 200, rate = 8000 })
    fails("range is wrong: got 0", hd.audio.picture, x, { range = 0 })
    fails("x is wrong", hd.audio.band_difference, x, nil, { rate = 8000, edges = { 2000 } })
    fails("rate is wrong: got 0", hd.audio.band_difference, x, x, { rate = 0, edges = { 2000 } })
    for _, edge in ipairs { 0 / 0, -math.huge, -1 } do
      fails("band 1 is empty", hd.audio.band_difference, x, x, { rate = 8000, edges = { edge } })
    end
    fails("band 2 is empty", hd.audio.band_difference, x, x, { rate = 8000, edges = { 2000, 2000 } })
  end)
end)
