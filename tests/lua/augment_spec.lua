-- `hdlua -m augment` and examples/augment.lua: pictures of every class with their provenance, classifiers that learn
-- from them, and how both go on after an interruption.

local hd = require "hd"
local core = require "hd.core"
local digest = require "hd.digest"
local sandbox = require "tests.lua.sandbox"

hd.threads(1)
local set = hd.data.shapes { size = 8, n = 40 }

-- A model that has learned nothing draws as well as any.
local function save_model(path, options)
  local H = hd.hierarchy.images { size = 8 }:fit_stats(set)
  hd.seed(1)
  assert(H:save(path, H:models(options)))
end

before_each(function() sandbox.open {} end)
after_each(sandbox.close)

describe("digest", function()
  it("knows the published values", function()
    assert.are.equal("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", digest.sha256 "")
    assert.are.equal("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", digest.sha256 "abc")
    assert.are.equal("248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
      digest.sha256 "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") -- two blocks
    assert.are.equal(0xcbf43926, digest.crc32 "123456789")
  end)
end)

describe("image.save", function()
  it("keeps a comment in the file, and refuses what is no plain text", function()
    local x = hd.zeros({ 1, 2, 2 }, { dtype = "u8" })
    assert(hd.image.save(sandbox.path "a.png", x, { comment = "abc" }))
    local chunk = "\0\0\0\11tEXtComment\0abc"
    local at = select(2, sandbox.read "a.png":find(chunk, 1, true))
    assert.are.equal(digest.crc32(chunk:sub(5)), (string.unpack(">I4", sandbox.read "a.png", at + 1)))
    assert.is_true(hd.image.load(sandbox.path "a.png", { channels = 1, dtype = "u8" }):equal(x))
    local _, message = pcall(hd.image.save, sandbox.path "a.png", x, { comment = "ä" })
    assert.matches("expected printable ASCII", message, 1, true)
  end)
end)

describe("hdlua -m augment", function()
  local COMMAND = "$H --threads 1 -m augment --model m.safetensors --steps 1 --guidance 1.5 --out d "

  local function manifest()
    local list = {}
    for line in sandbox.read "d/manifest.jsonl":gmatch "[^\n]+" do list[#list + 1] = core.json_decode(line) end
    return list
  end

  it("writes a folder that can be read as a set, and says of each file where it came from", function()
    save_model(sandbox.path "m.safetensors", { width = 8, classes = 5 })
    local out, code = sandbox.shell(COMMAND .. "--per-class 14 --seed 3")
    assert.are.equal(0, code, out)
    assert.matches("wrote 70 pictures of 5 classes into d", out, 1, true)
    local drawn = assert(hd.data.folder(sandbox.path "d", { size = 8 }))
    assert.are.equal(70, #drawn)
    assert.are.same({ "1", "2", "3", "4", "5" }, drawn.classes)
    local sum = digest.sha256(sandbox.read "m.safetensors")
    local lines = manifest()
    assert.are.equal(70, #lines)
    assert.are.same({ file = "2/00003.png", class = 2, index = 3, number = 12, model = sum, seed = 3, guidance = 1.5,
      steps = 1, regime = "cascade", levels = { shapes = "drawn", colours = "drawn", textures = "drawn" } }, lines[12])
    local png = sandbox.read "d/2/00003.png"
    assert.truthy(png:find("tEXtComment\0" .. sandbox.read "d/manifest.jsonl":match("{[^\n]*2/00003[^\n]*"), 1, true))
    local H, models = hd.hierarchy.load(sandbox.path "m.safetensors")
    local x = H:sample(models, 1, { seed = 3, first = 12, steps = 1, labels = 2, guidance = 1.5 })
    local saved = hd.image.load(sandbox.path "d/2/00003.png")
    assert.is_true((x[1]:clamp(-1, 1) - saved):abs():amax():item() < 0.01)
  end)

  it("goes on where it was, to the same bits, and adds", function()
    save_model(sandbox.path "m.safetensors", { width = 8, classes = 5 })
    sandbox.shell(COMMAND .. "--per-class 14")
    local text, png = sandbox.read "d/manifest.jsonl", sandbox.read "d/5/00014.png"
    os.remove(sandbox.path "d/5/00014.png")
    os.remove(sandbox.path "d/1/00001.png")
    sandbox.write("d/manifest.jsonl", text:sub(1, -200)) -- in the middle of a line
    local out, code = sandbox.shell(COMMAND .. "--per-class 14")
    assert.are.equal(0, code, out)
    assert.are.equal(png, sandbox.read "d/5/00014.png")
    assert.truthy(sandbox.read "d/1/00001.png")
    local known = {}
    for _, r in ipairs(manifest()) do
      assert.is_nil(known[r.file])
      known[r.file] = true
    end
    for class = 1, 5 do
      for index = 1, 14 do assert.is_true(known[("%d/%05d.png"):format(class, index)]) end
    end
    out = sandbox.shell(COMMAND .. "--per-class 14")
    assert.matches("wrote 0 pictures", out, 1, true)
    out = sandbox.shell(COMMAND .. "--per-class 15")
    assert.matches("wrote 5 pictures", out, 1, true)
    out, code = sandbox.shell(COMMAND .. "--per-class 14 --seed 1")
    assert.are.equal(1, code)
    assert.matches("lists pictures of another model or of other settings", out, 1, true)
  end)

  it("takes levels from real pictures of the class", function()
    save_model(sandbox.path "m.safetensors", { width = 8, classes = 2 })
    local real = set:per_class(2)
    for class = 1, 2 do
      assert(core.folder_make(sandbox.path("real/" .. class)))
      for i = 1, 2 do
        assert(hd.image.save(sandbox.path(("real/%d/%d.png"):format(class, i)), real.x[2 * class + i]))
      end
    end
    local out, code = sandbox.shell(COMMAND .. "--per-class 3 --hold shapes,colours --data folder:real")
    assert.are.equal(0, code, out)
    local given = assert(hd.data.folder(sandbox.path "real", { size = 8 }))
    local H = hd.hierarchy.images { size = 8 }
    for _, r in ipairs(manifest()) do
      assert.are.same({ shapes = "real", colours = "real", textures = "drawn" }, r.levels)
      local source, label = given:get(r.source)
      assert.are.equal(r.class, label)
      local function shapes(x) return H:split(x:unsqueeze(1)).shapes end
      local saved = hd.image.load(sandbox.path("d/" .. r.file))
      assert.is_true((shapes(saved) - shapes(source:to "f32" / 127.5 - 1)):abs():mean():item() < 0.5, r.file)
    end
  end)

  it("refuses what it cannot do", function()
    save_model(sandbox.path "m.safetensors", { width = 8, classes = 5 })
    save_model(sandbox.path "plain.safetensors", { width = 8 })
    save_model(sandbox.path "flat.safetensors", { width = 8, classes = 2, regime = "flat" })
    assert(core.folder_make(sandbox.path "few/1"))
    assert(hd.image.save(sandbox.path "few/1/a.png", set.x[1]))
    sandbox.write("file", "")
    for words, expected in next, { -- order free: separate runs
      ["--model plain.safetensors"] = "knows no classes", ["--model nowhere.safetensors"] = "nowhere.safetensors",
      ["--per-class 0"] = "--per-class is wrong: got 0", ["--steps 0"] = "--steps is wrong: got 0",
      ["--model ''"] = "--model is missing", ["--model ."] = "./model.safetensors", ["--out file"] = "file",
      ["--hold shapes"] = "a set with labels is needed", ["--hold edges"] = "there is no level 'edges' to hold. known",
      ["--hold shapes --data folder:few"] = "class 2 has no real pictures", ["--data shapes"] = "--data is for --hold",
      ["--hold shapes,colours,textures"] = "nothing is left to draw",
      ["--hold shapes --model flat.safetensors"] = "the model is flat",
    } do
      local out, code = sandbox.shell(COMMAND .. words)
      assert.are.equal(1, code, out)
      assert.matches("augment: .*" .. expected:gsub("%p", "%%%0"), out)
    end
  end)
end)

describe("the classifier", function()
  local classifier = require "hd.tool.augment.classifier"
  local real, rest = hd.data.shapes({ size = 8, n = 300, seed = 2 }):per_class(30)
  local function options(fields)
    local o = { classes = 5, steps = 60, batch = 32, lr = 3e-3, seed = 1, share = 0.5 }
    for key, value in next, fields or {} do o[key] = value end -- order free: separate keys
    return o
  end

  it("learns, the same bits from the same seed, from real pictures or drawn ones", function()
    local first = classifier.accuracy(classifier.train(real, nil, options()), rest)
    assert.is_true(first > 0.4, tostring(first)) -- 0.2 is by chance
    assert.are.equal(first, classifier.accuracy(classifier.train(real, nil, options()), rest))
    -- pictures of wrong classes in half of each batch do harm
    local wrong = real:subset(hd.arange(1, #real))
    wrong.labels = wrong.labels % 5 + 1
    local o = options { share = 0.9 }
    assert.is_true(classifier.accuracy(classifier.train(real, wrong, o), rest) < first - 0.1)
  end)

  it("measures each arm with what belongs to it", function()
    local seen = {}
    for _, arm in ipairs(classifier.arms) do
      seen[arm.name] = classifier.measure(arm, { real = real, made = real, asked = rest }, options { augment = {} })
    end
    assert.are.equal(seen.real, classifier.accuracy(classifier.train(real, nil, options()), rest))
    assert.are.equal(seen.standard, classifier.accuracy(classifier.train(real, nil, options { augment = {} }), rest))
    assert.are.equal(seen.both, classifier.accuracy(classifier.train(real, real, options { augment = {} }), rest))
    assert.are_not.equal(seen.real, seen.standard)
  end)
end)

describe("examples/augment.lua", function()
  local root = io.popen("pwd"):read "l"
  local COMMAND = ("$H --threads 1 %s/examples/augment.lua --size 8 --n 4 --steps 3 --width 8 --per-class 6 "
    .. "--draw-steps 1 --seeds 2 --classifier-steps 10 --out a "):format(root)

  it("draws, trains four ways and tells differences; resumed it finds the same", function()
    local out, code = sandbox.shell(COMMAND)
    assert.are.equal(0, code, out)
    assert.matches("shapes: 20 to learn from, 1980 to ask about", out, 1, true)
    for _, pair in ipairs { "standard %- real", "synthetic %- real", "both %- standard" } do
      assert.matches(pair .. ": [+-]%d+%.%d%d points, 95 %% interval [+-]%d+%.%d%d to [+-]%d", out)
    end
    assert.are.equal(30, #assert(hd.data.folder(sandbox.path "a/drawn", { size = 8 })))
    local again
    again, code = sandbox.shell(COMMAND .. "--resume")
    assert.are.equal(0, code, again)
    assert.are.equal(out:match "seed 1, real.*$", again:match "seed 1, real.*$")
  end)

  it("refuses what cannot be measured", function()
    for words, expected in next, { -- order free: separate runs
      ["--data emoji"] = "there are no labels", ["--seeds 1"] = "at least 2", ["--share 1"] = "less than 1",
      ["--n 4000"] = "has too few pictures",
    } do
      local out, code = sandbox.shell(COMMAND .. words)
      assert.are.equal(1, code, out)
      assert.matches(expected, out, 1, true)
    end
  end)
end)

describe("hdlua -m augment_study", function()
  local COMMAND = "$H --threads 1 -m augment_study --size 8 --n 4 --draws 2 --seeds 2 --steps 3 --width 8 "
    .. "--per-class 4 --draw-steps 1 --classifier-steps 5 --out o --runs r "

  it("measures each cell once, and adds settings", function()
    local out, code = sandbox.shell(COMMAND)
    assert.are.equal(0, code, out)
    local tsv = sandbox.read "o/augment-shapes.tsv"
    assert.are.equal(1 + 4 * 2 * 2, select(2, tsv:gsub("\n", "")))
    out, code = sandbox.shell(COMMAND .. "--settings plain,guided,few,held,flat")
    assert.are.equal(0, code, out)
    assert.is_nil(out:find("4 real", 1, true))
    assert.are.equal(tsv, sandbox.read "o/augment-shapes.tsv":sub(1, #tsv))
    local page = sandbox.read "o/augment-shapes.md"
    for _, row in ipairs { "– | standard − real", "plain | synthetic − real", "plain | both − standard",
      "held | both − standard", "flat | both − standard" } do
      local mean, low, high, one, two = page:match("| 4 | " .. row:gsub("%p", "%%%0")
        .. " | ([+-]%d+%.%d+) %[([+-]%d+%.%d+), ([+-]%d+%.%d+)%] | ([+-]%d+%.%d+), ([+-]%d+%.%d+) |")
      assert.is_true(mean and math.abs((one + two) / 2 - mean) < 0.011, row)
      assert.is_true(math.abs((high - low) / 2 - 12.706 * math.abs(one - two) / 2) < 0.15, row) -- Student, two draws
    end
    assert.are.equal(3, hd.image.load(sandbox.path "o/augment-shapes.png"):size(1))
    out = sandbox.shell(COMMAND .. "--settings plain,guided,few,held,flat")
    assert.is_nil(out:find("right", 1, true))
  end)

  it("refuses what cannot be measured", function()
    for words, expected in next, { -- order free: separate runs
      ["--draws 1"] = "--draws is wrong: got 1, expected at least 2", ["--n 0"] = "--n has the wrong value: got '0'",
      ["--settings none"] = "--settings has the wrong value: got 'none'", ["--share 0.7"] = "less than 2/3",
      ["--data emoji"] = "there are no labels", ["--n ''"] = "--n has no value",
    } do
      local out, code = sandbox.shell(COMMAND .. words)
      assert.are.equal(1, code, out)
      assert.matches(expected, out, 1, true)
    end
  end)
end)
