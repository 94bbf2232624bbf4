-- tests/lua/compare_spec.lua: `hdlua -m compare` in its short form: equal parameters and costs, what it writes, and how
-- it goes on after an interruption.

local hd = require "hd"
local core = require "hd.core"
local arms = require "hd.tool.compare.arms"
local cell = require "hd.tool.compare.cell"
local Store = require "hd.tool.study.store"
local report = require "hd.tool.compare.report"
local sandbox = require "tests.lua.sandbox"

hd.threads(1) -- small networks, and other tests beside this one
local set = hd.data.shapes { size = 8, n = 64 }

before_each(function() sandbox.open {} end)
after_each(sandbox.close)

describe("arms", function()
  it("choose widths by every combination: within 2 % the most alike, else the nearest", function()
    local first = { { 8, 10 }, { 16, 40 }, { 24, 90 } }
    local lists = { first, { { 8, 100 }, { 16, 400 }, { 24, 900 } } }
    assert.are.same({ 16, 16 }, (arms.choose(lists, 440)))
    assert.are.same({ 24, 8 }, (arms.choose(lists, 190)))
    assert.are.same({ 8, 16 }, (arms.choose(lists, 412))) -- 410
    assert.are.same({ 24, 24 }, (arms.choose(lists, 5000))) -- far off
    -- 500 is hit by 8 and 24 (100 + 400) and, 1.4 % off, by 8 and 16: the more alike
    local near = { { { 8, 100 }, { 16, 7 }, { 24, 9 } }, { { 8, 1 }, { 16, 407 }, { 24, 400 } } }
    local widths, miss = arms.choose(near, 500)
    assert.are.same({ 8, 16 }, widths)
    assert.are.equal(0.014, miss)
    -- one without a choice does not count among those that are to be alike
    assert.are.same({ 16, 16, 4 }, (arms.choose({ lists[1], lists[2], { { 4, 7 } } }, 447)))
  end)

  it("have as many parameters as the flat one, and their costs add up", function()
    local H = arms.hierarchy(set, { predict = "edm" })
    local flat = H:models { regime = "flat", width = 16 }
    local target = flat:num_parameters()
    local options = arms.options(H, "cascade", 16, target)
    local models = H:models(options)
    assert.is_true(math.abs(models:num_parameters() / target - 1) <= 0.02)
    local sampling = arms.sampling(H, models)
    -- Heun: 2 k - 1 calls for each of three levels
    assert.are.equal(3 * 9, sampling.calls(5))
    local report_of_5 = hd.profile(function() H:sample(models, 1, { steps = 5 }) end)
    local flops = 0
    for _, row in ipairs(report_of_5.rows) do flops = flops + row.flops end
    assert.is_true(math.abs(sampling.flops(5) / flops - 1) < 1e-9)
    assert.are.equal(5, sampling.steps(sampling.flops(5) * 1.02))
    assert.are.equal(1, sampling.steps(0))
  end)

  it("cost in training what the products of a step cost, and leave no trace", function()
    local H = arms.hierarchy(set, { predict = "v" })
    local models = H:models { regime = "flat", width = 8 }
    local x = set:batches { size = 8, prefetch = 0 }()
    hd.seed(3)
    local state = core.rng_state()
    local flops = arms.step_flops(H, models, x)
    assert.are.same(state, core.rng_state())
    assert.is_nil(models:parameters()[1]:grad())
    local twice = arms.step_flops(H, models, hd.cat({ x, x }, 1))
    assert.is_true(flops > 1e6 and math.abs(twice / flops - 2) < 0.05)
  end)

  it("split grey pictures too, and refuse what cannot be split", function()
    local grey = hd.data.Set(set.x:narrow(2, 1, 1), nil, { name = "grey" })
    local H = assert(arms.hierarchy(grey, { predict = "edm" }))
    assert.are.same({ "shapes", "textures" }, H:level_names())
    local x = core.randn({ 3, 1, 8, 8 }, { rng = core.rng(1) })
    assert.is_true((H:join(H:split(x)) - x):abs():amax():item() < 1e-5)
    local models = H:models { regime = "cascade", width = 8 }
    assert.are.same({ 2, 1, 8, 8 }, H:sample(models, 2, { steps = 1 }):shape())
    local odd = hd.data.Set(set.x:narrow(3, 1, 6):narrow(4, 1, 6))
    local nothing, message = arms.hierarchy(odd, { predict = "edm" })
    assert.is_nil(nothing)
    assert.truthy(message:find("a side that 4 divides", 1, true))
  end)
end)

describe("the store", function()
  local function point(arm, seed, at, frechet)
    return { arm = arm, seed = seed, point = at, share = at == "end" and 1 or 0.5, sample_steps = 4, steps = 10,
      frechet = frechet, frechet_low = frechet - 1, frechet_high = frechet + 1, kernel = 1, kernel_low = 0,
      kernel_high = 2, minutes = 0.5 * seed, tflop = 1.5, sample_gflop = 0.1, calls = 7, bands = "1.00 0.90",
      levels = "shapes:0.1000 colours:0.2000" }
  end

  it("keeps finished cells, and forgets what was torn", function()
    local path = sandbox.path "s.tsv"
    local store = Store(path, "a=1", cell.columns)
    assert.is_false(store:has("flat", 0))
    assert(store:append { point("flat", 0, "train", 20), point("flat", 0, "end", 10) })
    assert(store:append { point("flat", 1, "train", 21), point("flat", 1, "end", 12) })
    assert.is_true(store:has("flat", 0))
    local text = sandbox.read "s.tsv"
    sandbox.write("s.tsv", text:sub(1, -20)) -- in the middle of the last line
    store = Store(path, "a=1", cell.columns)
    assert.is_true(store:has("flat", 0))
    assert.is_false(store:has("flat", 1))
    assert.are.equal(2, #store:points "flat")
    assert(store:append { point("flat", 1, "train", 30), point("flat", 1, "end", 14) })
    store = Store(path, "a=1", cell.columns)
    local points = store:points "flat"
    assert.are.equal(4, #points) -- the torn cell's first line counts no more
    for _, r in ipairs(points) do assert.are_not.equal(21, r.frechet) end
    assert.is_false(Store(path, "a=2", cell.columns):has("flat", 0))
    local _, headers = sandbox.read "s.tsv":gsub("arm\tseed\tpoint", "")
    assert.are.equal(1, headers)
  end)

  it("gives the medians and the widest interval to the page", function()
    local store = Store(sandbox.path "s.tsv", "a=1", cell.columns)
    for seed, frechet in ipairs { 10, 30, 12 } do
      assert(store:append { point("flat", seed, "train", 50), point("flat", seed, "end", frechet) })
      assert(store:append { point("cascade", seed, "end", frechet + 40) })
    end
    local page = report.page(store, { title = "t", command = "c", machine = "m", features = "f",
      arms = { "flat", "cascade" }, curves = {}, pictures = {} })
    assert.truthy(page:find("| flat | 3 |", 1, true))
    assert.truthy(page:find("12.00 [9.00, 31.00]", 1, true))
    assert.truthy(page:find("Lowest Fréchet distance: **flat**; the other intervals lie apart", 1, true))
    assert.truthy(page:find("shapes 0.100, colours 0.200", 1, true))
    local files = report.curves(store, sandbox.path "s", "t", { "flat", "cascade" })
    assert.are.same({ "s-minutes.png", "s-flop.png", "s-calls.png", "s-sampling.png" }, files)
  end)
end)

describe("hdlua -m compare", function()
  local COMMAND = "$H -m compare --data shapes --size 8 --width 16 --steps 3 --samples 500 --sample-steps 1 --seeds 1 "
    .. "--points 1 --resamples 2 --feature-steps 4 --arms flat,cascade --by-class --threads 1 --out r"

  it("measures every arm once, goes on where it was, and says what it found", function()
    local out, code = sandbox.shell(COMMAND)
    assert.are.equal(0, code, out)
    local page, lines = sandbox.read "r/shapes.md", sandbox.read "r/shapes.tsv"
    assert.truthy(page:find("| flat | 1 |", 1, true) and page:find("| cascade | 1 |", 1, true))
    assert.truthy(page:find("hdfd-shapes-v1", 1, true))
    assert.truthy(lines:find("by_class=true", 1, true))
    for _, name in ipairs { "shapes-flat.png", "shapes-cascade.png", "shapes-minutes.png" } do
      assert.truthy(sandbox.read("r/" .. name), name)
    end
    -- as after an interruption in the last cell
    local before = lines:match "^(.*\n)cascade.*$"
    sandbox.write("r/shapes.tsv", before .. "casc")
    out, code = sandbox.shell(COMMAND)
    assert.are.equal(0, code, out)
    assert.truthy(out:find("flat, seed 0: measured before", 1, true))
    assert.is_nil(out:find("cascade, seed 0: measured before", 1, true))
    -- the same seed gives the same figures again; only clocks differ
    local function figures(text)
      local words, k = {}, 0
      for word in (text:match "\n(cascade\t[^\n]*)\n" .. "\t"):gmatch "([^\t]*)\t" do
        k = k + 1
        local name = cell.columns[k]
        if name ~= "minutes" and name ~= "sample_seconds" then words[name] = word end
      end
      return words
    end
    assert.are.same(figures(lines), figures(sandbox.read "r/shapes.tsv"))
    out = sandbox.shell(COMMAND)
    assert.truthy(out:find("cascade, seed 0: measured before", 1, true))
  end)

  it("refuses options that make no study", function()
    for words, expected in next, { -- order free: separate runs
      ["--arms flat,upwards"] = "got 'upwards'", ["--samples 499"] = "expected at least 500",
      ["--minutes 1 --steps 3"] = "give one of them", ["--guidance 1"] = "is for drawing --by-class",
      ["--size 10 --data shapes"] = "a side that 4 divides", ["--seeds 0"] = "--seeds is wrong",
      ["--data nothing"] = "expected emoji",
    } do
      local out, code = sandbox.shell("$H -m compare --out r " .. words)
      assert.are.equal(1, code, out)
      assert.truthy(out:find(expected, 1, true), out)
    end
  end)
end)
