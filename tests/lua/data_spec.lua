-- hd.data: sets, batches, and what each reader says about files that are wrong.

local hd = require "hd"
local fails = require "tests.lua.fails"
local rounds = require "tests.lua.rounds"

local folder

setup(function()
  folder = os.tmpname()
  os.remove(folder)
  assert(os.execute("mkdir " .. folder))
end)

teardown(function() os.execute("rm -rf " .. folder) end)

local function path(name) return folder .. "/" .. name end

local function write(name, text)
  local f <close> = assert(io.open(path(name), "wb"))
  f:write(text)
  return path(name)
end

local function refused(words, data, message)
  assert.is_nil(data)
  assert.matches(words, message, 1, true)
end

-- What a script prints when another hdlua runs it.
local function run(script)
  local command = ("'%s' %s 2>&1"):format(os.getenv "HDLUA", write("run.lua", script))
  local pipe <close> = assert(io.popen(command))
  return pipe:read "a"
end

describe("a set", function()
  local set = hd.data.shapes { n = 60, size = 16, seed = 4 }

  it("has a length, pictures and labels from 1", function()
    assert.are.equal(60, #set)
    assert.are.same({ 60, 3, 16, 16 }, set.x:shape())
    assert.are.equal("u8", set.x:dtype())
    for i = 1, #set do
      local x, label = set:get(i)
      assert.are.same({ 3, 16, 16 }, x:shape())
      assert.is_truthy(set.classes[label])
    end
    assert.is_true(set:get(-1):equal(set.x[60]))
    fails("got 61, expected 1 to 60", set.get, set, 61)
    fails("got 0", set.get, set, 0)
  end)

  it("can be divided and chosen from", function()
    local a, b = set:split(0.75, 1)
    assert.are.equal(45, #a)
    assert.are.equal(15, #b)
    local c = set:split(0.75, 1)
    assert.is_true(a.x:equal(c.x))
    assert.is_false(a.x:equal((set:split(0.75, 2)).x))
    local s = set:subset { 7, 3, 7 }
    assert.is_true(s:get(1):equal(set:get(7)) and s:get(2):equal(set:get(3)) and s:get(3):equal(set:get(7)))
    assert.are.equal(select(2, set:get(3)), select(2, s:get(2)))
    assert.are.equal(set.classes, s.classes)
    fails("got 61", set.subset, set, { 61 })
    fails("no indices", set.subset, set, {})
    fails("some for both parts", set.split, set, 1)
  end)

  it("gives some pictures of each class, and the rest", function()
    local few, rest = set:per_class(4, 1)
    assert.are.equal(20, #few)
    assert.are.equal(40, #rest)
    for class = 1, 5 do assert.are.equal(4, few.labels:eq(class):sum():item()) end
    assert.is_true(few.x:equal((set:per_class(4, 1)).x))
    assert.is_false(few.x:equal((set:per_class(4, 2)).x))
    local sum = few.x:to("i64"):sum():item() + rest.x:to("i64"):sum():item()
    assert.are.equal(set.x:to("i64"):sum():item(), sum)
    local all, nothing = few:per_class(4)
    assert.are.equal(20, #all)
    assert.is_nil(nothing)
    fails("expected at least 1", set.per_class, set, 0)
    fails("('disc') has too few pictures: got 4, expected at least 5", few.per_class, few, 5)
    fails("the set has no labels", set.per_class, hd.data.Set(set.x), 1)
    local gap = hd.data.Set(set.x:narrow(1, 1, 2), hd.tensor({ 1, 3 }, { dtype = "i64" }))
    fails("class 2 has too few pictures: got 0, expected at least 1", gap.per_class, gap, 1)
  end)

  it("has no picture twice in a split", function()
    local x = hd.tensor({ { { { 0 } } }, { { { 1 } } }, { { { 2 } } }, { { { 3 } } } }, { dtype = "u8" })
    local seen, a, b = {}, hd.data.Set(x):split(0.5, 3)
    for _, part in ipairs { a, b } do
      for i = 1, #part do seen[part:get(i):item()] = true end
    end
    assert.are.same({ [0] = true, true, true, true }, seen)
  end)

  it("can be made of tensors", function()
    fails("expected u8 [n,channels,height,width]", hd.data.Set, hd.zeros(2, 3, 4, 4))
  end)
end)

describe("augment", function()
  local augment = hd.data.augment
  local x = hd.rand({ 2, 3, 5, 7 }, { rng = hd.rng(1) })
  local none = { degrees = 0, translate = 0, scale = 0 }

  it("changes nothing where nothing may change", function()
    assert.is_true((augment(x, none) - x):abs():amax():item() < 1e-5)
    local one = hd.rand({ 2, 1, 1, 1 })
    assert.is_true(augment(one):equal(one))
  end)

  it("moves whole pictures as far as it may, repeating the border", function()
    local ramp = hd.arange(0, 99):to "f32":view(1, 1, 1, 100):expand(64, 1, 3, 100):contiguous()
    local moved = augment(ramp, { degrees = 0, translate = 0.1, scale = 0, rng = hd.rng(2) })
    local by = 50 - moved:select(4, 51):select(3, 2):reshape(-1)
    assert.is_true(by:amax():item() <= 10 and by:amin():item() >= -10)
    assert.is_true(by:amax():item() > 8 and by:amin():item() < -8)
    assert.is_true(moved:amin():item() >= 0 and moved:amax():item() <= 99)
    for i = 1, 64 do -- linear between pixels, so exact on a ramp
      assert.is_true(math.abs(moved:get(i, 1, 1, 41) - (40 - by[i])) < 1e-3)
    end
  end)

  it("turns by angles up to the one given, about the middle", function()
    local ramp = (hd.arange(0, 20):to "f32" - 10):view(1, 1, 1, 21):expand(64, 1, 21, 21):contiguous()
    local turned = augment(ramp, { degrees = 30, translate = 0, scale = 0, rng = hd.rng(3) })
    assert.is_true(turned:select(4, 11):select(3, 11):abs():amax():item() < 1e-5)
    local right, down = turned:select(4, 15):select(3, 11):reshape(-1), turned:select(4, 11):select(3, 15):reshape(-1)
    local angles = {}
    for i = 1, 64 do
      assert.is_true(math.abs(right[i] ^ 2 + down[i] ^ 2 - 16) < 1e-3)
      angles[i] = math.deg(math.atan(down[i], right[i]))
    end
    assert.is_true(math.max(table.unpack(angles)) <= 30 and math.max(table.unpack(angles)) > 25)
    assert.is_true(math.min(table.unpack(angles)) >= -30 and math.min(table.unpack(angles)) < -25)
  end)

  it("refuses what is no batch of pictures", function()
    fails("expected f32 [n,channels,height,width]", augment, x[1])
    fails("expected f32", augment, x:to "f64")
    fails("scale is wrong: got 1", augment, x, { scale = 1 })
    fails("translate is wrong: got ", augment, x, { translate = 0 / 0 })
  end)
end)

describe("batches", function()
  local set = hd.data.shapes { n = 50, size = 8 }

  -- The pictures of a batch back as bytes.
  local function bytes(x) return ((x + 1) * 127.5 + 0.5):floor() end

  it("hold each picture once in an epoch, as f32 in [-1,1]", function()
    local batches <close> = set:batches { size = 10, seed = 3 }
    local sum, labels = 0, 0
    assert.are.equal(5, #batches)
    for step = 1, 5 do
      local x, y = batches()
      assert.are.equal("f32", x:dtype())
      assert.are.same({ 10, 3, 8, 8 }, x:shape())
      assert.are.same({ 192, 1, 24, 3 }, x:strides()) -- channels last
      assert.are.equal("i64", y:dtype())
      sum, labels = sum + bytes(x):sum():item(), labels + y:sum():item()
      assert.are.equal(step, batches:state_dict().position)
    end
    assert.are.equal(hd.tensor(set.x:reshape(-1):totable(), { dtype = "f64" }):sum():item(), sum)
    assert.are.equal(set.labels:sum():item(), labels)
  end)

  it("are augmented by seed and position alone", function()
    local function stream(skip, count, seed, augment)
      local batches <close> = set:batches { size = 16, seed = seed, augment = augment }
      batches:load_state_dict { position = skip, seed = seed, size = 16 }
      local list = {}
      for i = 1, count do list[i] = batches() end
      return hd.cat(list, 1)
    end
    local all, plain = stream(0, 4, 5, {}), stream(0, 4, 5)
    assert.is_true(all:narrow(1, 33, 32):equal(stream(2, 2, 5, {})))
    assert.is_false(all:equal(plain))
    local still = stream(0, 1, 5, { degrees = 0, translate = 0, scale = 0 })
    assert.is_true((still - plain:narrow(1, 1, 16)):abs():amax():item() < 1e-5)
    fails("batches: augment: degrees is wrong: got 200", set.batches, set, { augment = { degrees = 200 } })
    fails("unknown option 'angle'", set.batches, set, { augment = { angle = 3 } })
  end)

  it("drop the last short batch and go on without end", function()
    local batches <close> = set:batches { size = 32 }
    assert.are.equal(1, #batches)
    local n = 0
    for x in batches do
      assert.are.equal(32, x:size(1))
      n = n + 1
      if n == 7 then break end
    end
    assert.are.equal(7, n)
  end)

  it("depend on the seed and the position alone", function()
    local function stream(opts, skip, count)
      local batches <close> = set:batches(opts)
      batches:load_state_dict { position = skip, seed = opts.seed, size = opts.size }
      local list = {}
      for i = 1, count do list[i] = batches() end
      return hd.cat(list, 1)
    end
    local opts = { size = 16, seed = 5, flip = true }
    local all = stream(opts, 0, 9)
    assert.is_true(all:narrow(1, 65, 80):equal(stream(opts, 4, 5)))
    assert.is_true(all:equal(stream({ size = 16, seed = 5, flip = true, prefetch = 0 }, 0, 9)))
    assert.is_true(all:equal(stream({ size = 16, seed = 5, flip = true, prefetch = 7 }, 0, 9)))
    assert.is_false(all:equal(stream({ size = 16, seed = 6, flip = true }, 0, 9)))
    assert.is_false(all:equal(stream({ size = 16, seed = 5 }, 0, 9)))
  end)

  it("are the set's own order without shuffling, mirrored or not", function()
    local batches <close> = set:batches { size = 50, shuffle = false, flip = true }
    local x = bytes(batches())
    local mirrored = 0
    for i = 1, 50 do
      local original = hd.tensor(set.x[i]:totable())
      if not x[i]:equal(original) then
        mirrored = mirrored + 1
        assert.is_true(x[i]:equal(original:flip(3)))
      end
    end
    assert.is_true(mirrored > 10 and mirrored < 40)
  end)

  it("go through a transform on the way", function()
    local batches <close> = set:batches { size = 4, transform = function(x, y) return x * 0 + 1, y end }
    assert.are.equal(1, (batches()):mean():item())
  end)

  it("give no labels where the set has none", function()
    local batches <close> = hd.data.Set(set.x):batches { size = 4 }
    assert.are.equal(1, select("#", batches()))
  end)

  it("stay good when the set is gone", function()
    local batches = hd.data.shapes({ n = 40, size = 16, seed = 8 }):batches { size = 40, shuffle = false }
    for _ = 1, 3 do
      collectgarbage()
      assert.is_true(bytes(batches()):equal(hd.tensor(hd.data.shapes({ n = 40, size = 16, seed = 8 }).x:totable())))
    end
    batches:close()
    fails("closed", batches)
  end)

  it("refuse impossible options and other places", function()
    fails("expected 1 to 50", set.batches, set, { size = 51 })
    fails("did you mean 'shuffle'?", set.batches, set, { shufle = true })
    fails("prefetch", set.batches, set, { prefetch = -1 })
    local batches <close> = set:batches {}
    fails("'seed' differs", batches.load_state_dict, batches, { position = 0, seed = 1, size = 32 })
    fails("position", batches.load_state_dict, batches, { seed = 0, size = 32 })
    fails("'pictures' differs", batches.load_state_dict, batches, { position = 0, seed = 0, size = 32, pictures = 1 })
    fails("'flip' differs", batches.load_state_dict, batches, { position = 0, seed = 0, size = 32, flip = true })
    fails("expected 0 or more", batches.load_state_dict, batches, { position = -1, seed = 0, size = 32 })
  end)
end)

describe("hd.data.shapes", function()
  it("gives the same pictures in every process", function()
    local script = [[
      local hd = require "hd"
      local set = hd.data.shapes { n = 20, seed = 2 }
      print(hd.tensor(set.x:reshape(-1):totable(), { dtype = "f64" }):cumsum(1):sum():item())]]
    local first = run(script)
    assert.matches("^%d", first)
    assert.are.equal(first, run(script))
  end)

  it("varies with the seed and has white corners", function()
    local a, b = hd.data.shapes { n = 5, seed = 1 }, hd.data.shapes { n = 5, seed = 2 }
    assert.is_false(a.x:equal(b.x))
    for i = 1, 5 do assert.are.equal(255, a.x:get(i, 1, 1, 1)) end
  end)

  it("refuses impossible options", function()
    fails("did you mean 'size'?", hd.data.shapes, { siz = 3 })
    fails("n is wrong", hd.data.shapes, { n = 0 })
    fails("size is wrong", hd.data.shapes, { size = 5000 })
  end)
end)

describe("hd.data.open", function()
  it("takes words for pictures and for sounds", function()
    local set = assert(hd.data.open("shapes", { size = 8 }))
    assert.are.equal("shapes: 2000 pictures u8 [3,8,8]", tostring(set))
    set = assert(hd.data.open("synth", { rate = 4000, length = 128 }))
    assert.are.equal("synth: 1000 clips f32 [1,128]", tostring(set))
    assert.are.equal(4000, set.rate)
  end)

  it("takes words with a path", function()
    write("few-idx3.bin", "\0\0\8\3" .. string.pack(">I4I4I4", 1, 1, 2) .. "\1\2")
    assert.are.equal("few: 1 pictures u8 [1,1,2]", tostring(hd.data.open("idx:" .. path "few-idx3.bin")))
    assert(os.execute("mkdir -p " .. path "sounds"))
    assert(hd.audio.save(path "sounds/a.wav", hd.ones { 1, 600 } * 0.5, 8000))
    local set = assert(hd.data.open("wav:" .. path "sounds", { rate = 4000, length = 256 }))
    assert.are.equal("sounds: 1 clips f32 [1,256]", tostring(set))
    assert.are.equal(4000, set.rate)
  end)

  it("says which words there are", function()
    local all = "expected emoji, shapes, cifar10:DIR, folder:DIR, idx:IMAGES,LABELS, synth or wav:DIR"
    for _, word in ipairs { "", "synt", "synth:x", "wav", "folder:" } do
      refused(("got '%s', %s"):format(word, all), hd.data.open(word))
    end
    refused("got 'emoji', expected synth or wav:DIR", hd.data.open("emoji", { kind = "sounds" }))
    refused("got 'synth', expected emoji, shapes, cifar10:DIR, folder:DIR or idx:IMAGES,LABELS",
      hd.data.open("synth", { kind = "pictures" }))
    refused("cannot list the folder", hd.data.open "wav:/nowhere")
    fails("did you mean 'sounds'?", hd.data.open, "synth", { kind = "sound" })
  end)
end)

describe("hd.data.emoji", function()
  local set, reason = hd.data.emoji {}

  it("reads the system's font", function()
    if not set then return pending(reason) end
    assert.is_true(#set > 1000)
    assert.are.same({ #set, 3, 32, 32 }, set.x:shape())
    assert.are.equal(0x23, set.codes:get(1))
    assert.are.same({ 3, 64, 64 }, (hd.data.emoji { size = 64 }):get(1):shape())
  end)

  it("equals the reference set within one grey level", function()
    local f = io.open("../shared/data/emoji32/emoji32.bin", "rb")
    if not (set and f) then return pending "needs the font and ../shared/data/emoji32" end
    local text = f:read "a"
    f:close()
    assert.are.equal(#text, #set * 3073)
    local copy = write("data_batch_1.bin", text) -- records as in CIFAR-10
    local expected = assert(hd.data.cifar10(folder))
    os.remove(copy)
    for i = 1, #set do
      if not set.x[i]:equal(expected.x[i]) then
        local a, b = hd.tensor(set.x[i]:totable()), hd.tensor(expected.x[i]:totable())
        assert.is_true((a - b):abs():max():item() <= 1)
      end
    end
  end)

  it("says which package is missing", function()
    refused("No such file", hd.data.emoji { font = path "none.ttf" })
    local core = require "hd.core"
    local find = core.font_find
    core.font_find = function() return nil, "the font is nowhere" end
    local data, message = hd.data.emoji {}
    core.font_find = find
    refused("fonts-noto-color-emoji", data, message)
  end)

  it("refuses what is no such font", function()
    refused("no bitmap colour font", hd.data.emoji { font = write("x.ttf", ("\0"):rep(100)) })
    refused("no bitmap colour font", hd.data.emoji { font = write("y.ttf", "") })
    fails("did you mean 'size'?", hd.data.emoji, { sise = 32 })
  end)
end)

describe("hd.data.cifar10", function()
  local function record(label, byte) return string.char(label) .. string.char(byte):rep(3072) end

  it("reads the files that are there, labels from 1", function()
    write("data_batch_2.bin", record(9, 7) .. record(0, 8))
    write("data_batch_1.bin", record(3, 6))
    write("test_batch.bin", record(1, 1))
    local set = assert(hd.data.cifar10(folder))
    assert.are.equal(3, #set)
    assert.are.same({ 4, 10, 1 }, set.labels:totable())
    assert.are.equal(7, set.x:get(2, 3, 32, 32))
    assert.are.equal("ship", set.classes[9])
    assert.are.equal(1, #hd.data.cifar10(folder, { part = "test" }))
  end)

  it("names the file that is cut short or foreign", function()
    write("data_batch_1.bin", record(3, 6):sub(1, -2))
    refused("data_batch_1.bin' is no CIFAR-10 file, or cut short: got 3072 bytes", hd.data.cifar10(folder))
    write("data_batch_1.bin", record(10, 6))
    refused("label of record 1 is 10", hd.data.cifar10(folder))
    refused("no data_batch_*.bin", hd.data.cifar10 "/nowhere")
    fails("did you mean 'train'?", hd.data.cifar10, folder, { part = "trian" })
  end)
end)

describe("hd.data.idx", function()
  local images = "\0\0\8\3" .. string.pack(">I4I4I4", 2, 2, 2) .. "\1\2\3\4\5\6\7\8"
  local labels = "\0\0\8\1" .. string.pack(">I4", 2) .. "\0\9"

  it("reads pictures and labels", function()
    local set = assert(hd.data.idx(write("i", images), write("l", labels)))
    assert.are.same({ 2, 1, 2, 2 }, set.x:shape())
    assert.are.same({ { 5, 6 }, { 7, 8 } }, set.x[2][1]:totable())
    assert.are.same({ 1, 10 }, set.labels:totable())
    assert.is_nil(hd.data.idx(path "i").labels)
  end)

  it("reads packed files", function()
    write("packed", images)
    assert(os.execute("gzip -kf " .. path "packed"))
    assert.is_true(hd.data.idx(path "packed.gz").x:equal(hd.data.idx(path "i").x))
  end)

  it("refuses what does not fit", function()
    refused("do not fit its header", hd.data.idx(write("cut", images:sub(1, -2))))
    refused("magic number", hd.data.idx(write("text", "hello world")))
    refused("labels do not fit", hd.data.idx(path "i", write("few", "\0\0\8\1\0\0\0\1\3")))
    refused("No such file", hd.data.idx(path "i", path "none"))
    refused("holds no pictures", hd.data.idx(path "l"))
  end)
end)

describe("hd.data.folder", function()
  local function picture(name, value, h, w)
    assert(hd.image.save(path(name), hd.full({ 3, h, w }, value, { dtype = "u8" })))
  end

  setup(function()
    assert(os.execute(("mkdir -p %s/p %s/classes/b %s/classes/a %s/empty"):format(folder, folder, folder, folder)))
    picture("p/2.png", 20, 40, 60)
    picture("p/1.PNG.png", 10, 8, 8)
    write("p/3.png", "broken")
    write("p/notes.txt", "no picture")
    picture("classes/b/x.png", 1, 4, 4)
    picture("classes/a/y.png", 2, 4, 4)
    picture("classes/a/z.png", 3, 4, 4)
  end)

  it("reads pictures in sorted order at the size asked for, and skips and names what is broken", function()
    local text = run(([[
      local set = assert(require("hd").data.folder("%s", { size = 16 }))
      print(#set, set.x:get(1, 1, 1, 1), set.x:get(2, 3, 16, 16), #set.skipped)]]):format(path "p"))
    assert.matches("2\t10\t20\t1\n", text, 1, true)
    assert.matches("skipped 1 of 3 pictures", text, 1, true)
    assert.matches("3.png' is neither a PNG nor a JPEG file", text, 1, true)
    assert.is_nil(text:find "notes")
  end)

  it("splits by a fraction that leaves something on both sides", function()
    local set = assert(hd.data.shapes { n = 10, size = 8 })
    for _, fraction in ipairs { 0 / 0, math.huge, -1, 0, 1, 1e300 } do
      local ok, message = pcall(set.split, set, fraction)
      assert.is_false(ok)
      assert.matches("set:split: fraction is wrong: got", message)
    end
  end)

  it("trains on a thousand pictures of which one in a hundred is cut short, and says so once", function()
    local count = rounds.long and 10000 or 1000
    assert(os.execute("mkdir -p " .. path "many"))
    picture("whole.png", 77, 12, 12)
    local f = assert(io.open(path "whole.png", "rb"))
    local whole = f:read "a"
    f:close()
    for i = 1, count do write(("many/%05d.png"):format(i), i % 100 == 0 and whole:sub(1, i % 60 + 5) or whole) end
    local text = run(([[
      local set = assert(require("hd").data.folder("%s", { size = 8 }))
      local batches <close> = set:batches { size = 32 }
      for _ = 1, #batches do assert(batches():mean():item() < 0) end
      print(#set, #set.skipped)]]):format(path "many"))
    assert.matches(("%d\t%d\n"):format(count * 0.99 // 1, count // 100), text, 1, true)
    local _, said = text:gsub(("skipped %d of %d pictures"):format(count // 100, count), "")
    assert.are.equal(1, said)
    rounds.count("%d pictures, %d of them cut short and skipped", count, count // 100)
  end)

  it("takes subfolders as classes", function()
    local set = assert(hd.data.folder(path "classes", { size = 4, channels = 1 }))
    assert.are.same({ "a", "b" }, set.classes)
    assert.are.same({ 1, 1, 2 }, set.labels:totable())
    assert.are.same({ 3, 1, 4, 4 }, set.x:shape())
  end)

  it("says what is wrong with a folder", function()
    refused("cannot list the folder", hd.data.folder(path "none"))
    refused("no PNG or JPEG files", hd.data.folder(path "empty"))
    fails("size or channels", hd.data.folder, path "p", { channels = 2 })
    fails("known: size, channels", hd.data.folder, path "p", { colour = true })
  end)
end)
