-- hd.data.wav and hd.hierarchy.audio: folders of sounds as clips, batches of them, bands that are learned and saved.

local hd = require "hd"
local fails = require "tests.lua.fails"
local sandbox = require "tests.lua.sandbox"

local path = sandbox.path
local folder

before_each(function()
  sandbox.open {}
  folder = path ""
  hd.seed(1)
end)
after_each(sandbox.close)

local function tone(frames, hertz, rate)
  return (hd.arange(0, frames - 1, { dtype = "f64" }) * (2 * math.pi * hertz / rate)):sin():to "f32" * 0.25
end

local function write(name, x, rate) assert(hd.audio.save(path(name), x, rate or 8000, { bits = 24 })) end

-- What hd.data.wav says of files that it skips is not for the log of the tests.
local function quietly(...)
  local stderr = io.stderr
  io.stderr = { write = function() end } -- luacheck: ignore
  local set, message = hd.data.wav(...)
  io.stderr = stderr -- luacheck: ignore
  return set, message
end

describe("hd.data.wav", function()
  it("reads labels and speakers from DIGIT_SPEAKER_TAKE", function()
    for _, name in ipairs { "0_ann_0", "7_ann_0", "7_bob_0", "7_bob_1" } do
      write(name .. ".wav", tone(800, 440, 8000))
    end
    local set = assert(hd.data.wav(folder, { length = 1024 }))
    assert.are.equal("sounds: 4 clips f32 [1,1024]", tostring(set))
    assert.are.same({ "0", "7" }, set.classes)
    assert.are.same({ 1, 2, 2, 2 }, set.labels:totable())
    assert.are.equal(2, #hd.data.wav(folder, { speakers = { "bob" } }))
    assert.are.equal(2, #hd.data.wav(folder, { except = { "bob" } }))
    local none, message = hd.data.wav(folder, { speakers = { "eve" } })
    assert.is_nil(none)
    assert.matches("none of the 4 sounds in .* is by these speakers", message)
  end)

  it("takes subfolders as classes, and sounds without a class", function()
    os.execute(("mkdir %s %s"):format(path "bell", path "drum"))
    write("bell/a.flac", tone(800, 440, 8000))
    write("drum/b.wav", tone(800, 100, 8000))
    local set = assert(hd.data.wav(folder))
    assert.are.same({ "bell", "drum" }, set.classes)
    write("c.wav", tone(800, 100, 8000))
    set = assert(hd.data.wav(folder))
    assert.are.equal(1, #set)
    assert.is_nil(set.labels)
  end)

  it("averages channels, resamples, cuts, fills with silence and scales to a peak of 1", function()
    write("a.wav", hd.stack { tone(44100, 1000, 44100), tone(44100, 1000, 44100) * 0.5 }, 44100)
    write("b.wav", tone(1000, 1000, 8000))
    local set = assert(hd.data.wav(folder, { length = 2000 }))
    local long, short = set:get(1)[1], set:get(2)[1]
    assert.is_true(math.abs(long:abs():amax():item() - 1) < 1e-5)
    assert.is_true((long - tone(2000, 1000, 8000) * 4):narrow(1, 100, 1800):abs():amax():item() < 2e-2)
    assert.are.equal(0, short:narrow(1, 1001, 1000):abs():amax():item())
    local plain = assert(hd.data.wav(folder, { length = 2000, normalise = false }))
    assert.is_true(math.abs(plain:get(2):abs():amax():item() - 0.25) < 1e-5)
  end)

  it("skips and names what is silent, too short or no sound", function()
    write("a.wav", tone(800, 440, 8000))
    write("silent.wav", hd.zeros { 800 })
    write("short.wav", tone(20, 440, 8000))
    os.execute("echo text > " .. path "text.wav")
    local set = assert(quietly(folder))
    assert.are.equal(1, #set)
    local messages = ""
    for _, entry in ipairs(set.skipped) do messages = messages .. entry.message .. "\n" end
    assert.matches("short.wav': too short: got 0.003 s, expected at least 0.050", messages, 1, true)
    assert.matches("silent.wav': silent: its peak is 0 of full scale", messages, 1, true)
    assert.matches("text.wav': not a sound", messages, 1, true)
    os.remove(path "a.wav")
    assert.matches("none of the 3 sounds", select(2, quietly(folder)), 1, true)
    assert.matches("No such file", select(2, hd.data.wav(path "none")), 1, true)
    os.execute("rm " .. path "*.wav")
    assert.matches("no WAV, FLAC, OGG or AIFF files in", select(2, hd.data.wav(folder)), 1, true)
    fails("expected 1 to 1000000", hd.data.wav, folder, { rate = 0 })
    fails("speakers[1] is wrong: got 3", hd.data.wav, folder, { speakers = { 3 } })
  end)
end)

describe("batches of clips", function()
  local function set() return hd.data.Set(hd.arange(1, 10, { dtype = "f32" }):view(10, 1, 1), hd.arange(1, 10)) end

  it("go through all, in an order of each epoch", function()
    local batches, epochs = set():batches { size = 5, seed = 3 }, {}
    for e = 1, 2 do
      local x, labels = hd.cat({ batches(), (batches()) }, 1), nil
      epochs[e] = x:reshape(-1):totable()
      assert.is_nil(labels)
    end
    assert.are_not.same(epochs[1], epochs[2])
    table.sort(epochs[1])
    assert.are.same({ 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 }, epochs[1])
    local x, labels = set():batches { size = 3, shuffle = false } ()
    assert.are.same({ 1, 2, 3 }, x:reshape(-1):totable())
    assert.are.same({ 1, 2, 3 }, labels:totable())
  end)

  it("go on where state_dict was", function()
    local batches = set():batches { size = 3, seed = 3 }
    for _ = 1, 4 do batches() end
    local again = set():batches { size = 3, seed = 3 }:load_state_dict(batches:state_dict())
    for _ = 1, 5 do assert.is_true(batches():equal((again()))) end
  end)

  it("refuse what has no sense", function()
    fails("flip and augment are for pictures", set().batches, set(), { size = 2, flip = true })
    fails("size is wrong: got 11, expected 1 to 10", set().batches, set(), { size = 11 })
    fails("expected u8 [n,channels,height,width] or f32 [n,channels,frames]", hd.data.Set, hd.zeros { 2, 3 })
  end)
end)

describe("hd.hierarchy.audio", function()
  local function data(n) return hd.randn { n, 1, 256 } end

  it("splits into bands and joins them", function()
    for _, transform in ipairs { "mdct", "packet" } do
      local H = hd.hierarchy.audio { length = 256, bins = 16, transform = transform }
      assert.is_true(H:check(data(3)) <= 1e-5)
      assert.are.same({ "band1", "band2", "band3" }, H:level_names())
      assert.are.same({ 1000, 2000, 4000 }, H.edges)
      assert.are.same({ 3, 8, 16 }, H:split(data(3)).band3:shape())
    end
    local H = hd.hierarchy.audio { length = 256, bins = 16, bands = { 500 } }
    assert.are.same({ 500, 4000 }, H.edges)
  end)

  it("learns each band, by class, and draws the same from a file", function()
    local H = hd.hierarchy.audio { length = 256, bins = 16 }
    local rows = {}
    for i = 1, 32 do rows[i] = tone(256, i % 2 == 0 and 300 or 3000, 8000):view(1, 256) end
    local x = hd.stack(rows)
    local labels = hd.tensor({ 2, 1 }, { dtype = "i64" }):expand(16, 2):reshape(32)
    H:fit_stats(x)
    local models = H:models { width = 16, classes = 2 }
    local opt = hd.optim.AdamW(models:parameters(), { lr = 4e-3 })
    local first, last
    for step = 1, 40 do
      local loss = H:loss(models, x, { labels = labels, rng = hd.rng(5, step % 4) })
      opt:zero_grad()
      loss:backward()
      opt:step()
      if step == 4 then first = loss:item() elseif step == 40 then last = loss:item() end
    end
    assert.is_true(last < 0.7 * first, ("the loss went from %g to %g"):format(first, last))
    assert(H:save(path "a.safetensors", models))
    local again, loaded = assert(hd.hierarchy.load(path "a.safetensors"))
    assert.are.equal(8000, again.rate)
    local options = { steps = 3, labels = 2, seed = 4 }
    assert.is_true(H:sample(models, 2, options):equal(again:sample(loaded, 2, options)))
  end)

  it("refuses what cannot be split", function()
    local audio = hd.hierarchy.audio
    fails("length is wrong: got 100, expected a multiple of 64", audio, { length = 100 })
    fails("rate or bins is wrong: got 8000 and 1", audio, { bins = 1 })
    fails("expected a power of 2 for wavelet packets", audio, { bins = 48, length = 4800, transform = "packet" })
    fails("band 2 is empty", audio, { bands = { 500, 501 } })
    fails("band 1 is empty", audio, { bands = 9 })
    fails("there are no bands", audio, { bands = 0 })
    fails("unknown option 'size'", audio, { size = 3 })
  end)
end)

local root = io.popen("pwd"):read "l"

describe("examples/train_audio.lua", function()
  local T = root .. "/examples/train_audio.lua --threads 1 --length 512 --bins 16 --width 8 --batch 4 --steps 6 "
    .. "--samples 9 --draw-steps 2"

  it("trains, draws, says how loud the bands are; resumed it is the same, bit for bit", function()
    local out, code = sandbox.shell("$H " .. T .. " --out a && $H " .. T .. " --out b --stop-at 3 && $H " .. T
      .. " --out b --resume")
    assert.are.equal(0, code, out)
    assert.matches("step 6/6 .*band1 %d.*band2 %d.*band3 %d", out)
    assert.matches("to +1000 Hz: [+-]%d+%.%d+ dB\nto +2000 Hz.*\nto +4000 Hz", sandbox.read "a/bands.txt")
    local x, rate = hd.audio.load(path "a/samples/09_bass.wav")
    assert.are.same({ 1, 512 }, x:shape())
    assert.are.equal(8000, rate)
    assert.are.equal(3, hd.image.load(path "a/samples.png"):size(1))
    assert.are.equal(sandbox.read "a/model.safetensors", sandbox.read "b/model.safetensors")
    assert.are.equal(sandbox.read "a/samples/02_guitar.wav", sandbox.read "b/samples/02_guitar.wav")
  end)

  it("takes folders without classes, flat, and wavelet packets", function()
    for i = 1, 4 do write(("%d.wav"):format(i), tone(600, 100 * i, 8000)) end
    local out, code = sandbox.shell("$H " .. T .. " --data wav:. --bands 1 --out a && $H " .. T
      .. " --data wav:. --transform packet --regime flat --out b")
    assert.are.equal(0, code, out)
    assert.truthy(sandbox.read "a/samples/01.wav")
    assert.matches("flat %d", out)
    assert.matches("'none': No such file", (sandbox.shell("$H " .. T .. " --data wav:none")), 1, true)
  end)
end)

describe("hdlua -m compare_audio", function()
  local C = "$H --threads 1 -m compare_audio --length 1024 --bins 16 --width 8 --batch 4 --steps 4 --samples 16 "
    .. "--draw-steps 2 --recogniser-steps 4 --out o "

  it("measures both arms once, and writes a page with pictures and sounds", function()
    local out, code = sandbox.shell(C)
    assert.are.equal(0, code, out)
    assert.matches("flat, seed 0: 1 of the budget, 4 steps", out, 1, true)
    local page = sandbox.read "o/audio-synth.md"
    assert.matches("| bands | 0 | %d+ | 4 |", page)
    for _, arm in ipairs { "real", "flat", "bands" } do
      assert.truthy(hd.image.load(path("o/audio-synth-" .. arm .. ".png")))
      assert.are.same({ 1, 8 * 1024 }, hd.audio.load(path("o/audio-synth-" .. arm .. ".ogg")):shape())
      assert.truthy(page:find("audio-synth-" .. arm .. ".ogg", 1, true))
    end
    local parameters = { page:match "| flat | 0 | (%d+).-| bands | 0 | (%d+)" }
    assert.is_true(math.abs(parameters[1] / parameters[2] - 1) < 0.3)
    out = sandbox.shell(C)
    assert.matches("flat, seed 0: measured before", out, 1, true)
    assert.matches("bands, seed 0: measured before", out, 1, true)
  end)

  it("has a recogniser that learns, and bits that depend on the seed alone", function()
    local recogniser = require "hd.tool.sound.recogniser"
    local set, other = hd.data.synth { n = 80, length = 4096 }, hd.data.synth { n = 160, length = 4096, seed = 1 }
    local function right(seed)
      local ear = recogniser.train({ other }, { steps = 40, seed = seed, classes = 8 })
      return recogniser.answers(ear, set.x):eq(set.labels):to "f64":mean():item()
    end
    local share = right(1)
    assert.is_true(share > 0.4, tostring(share)) -- 0.125 is by chance
    assert.are.equal(share, right(1))
  end)

  it("hears other speakers than are learnt", function()
    for _, name in ipairs { "0_ann", "1_ann", "0_bob", "1_bob" } do
      for take = 0, 4 do write(("%s_%d.wav"):format(name, take), tone(900, 200 + 300 * name:byte() % 700, 8000)) end
    end
    local words = C .. "--data wav:. --arms bands "
    local out, code = sandbox.shell(words .. "--speakers ann")
    assert.are.equal(0, code, out)
    assert.matches("of 10 clips of speakers it has not heard", out, 1, true)
    for more, expected in next, { -- order free: separate runs
      ["--speakers eve"] = "by these speakers", ["--speakers ann,bob"] = "by these speakers",
      ["--arms levels --speakers ann"] = "--arms has the wrong value: got 'levels'", [""] = "--speakers is missing",
      ["--data emoji"] = "expected synth or wav:DIR", ["--samples 0"] = "--samples is wrong: got 0",
      ["--speakers ann --also none"] = "No such file",
    } do
      out, code = sandbox.shell(words .. more)
      assert.are.equal(1, code, out)
      assert.matches("compare_audio: .*" .. expected:gsub("%p", "%%%0"), out)
    end
  end)
end)
