-- tests/lua/hierarchy_run_spec.lua: networks, losses and samples of a hierarchy of small pictures.

local core = require "hd.core"
local hierarchy = require "hd.hierarchy"
local optim = require "hd.optim"
local sampler = require "hd.sampler"
local schedule = require "hd.schedule"
local data = require "hd.data"

local hdlua = assert(os.getenv "HDLUA", "HDLUA is not set: run by tests/run.sh")
local NAMES = { "shapes", "colours", "textures" }

local function message(fn, ...)
  local ok, text = pcall(fn, ...)
  assert.is_false(ok)
  return tostring(text)
end

local function shape_of(x) return table.concat(x:shape(), ",") end

-- The L2 distance of two tensors, relative to the second.
local function distance(a, b) return (a - b):norm():item() / math.max(1e-30, b:norm():item()) end

local set = data.shapes { size = 8, n = 64 }
local x = set.x:to "f32" * (1 / 127.5) - 1

local function pictures(opts) return hierarchy.images { size = 8, regime = opts and opts.regime }:fit_stats(set) end

-- Networks with random weights: the last layer begins at zero, which would hide mistakes.
local function random_models(H, opts)
  core.seed(2)
  local o = { width = 8 }
  for key, value in next, opts or {} do o[key] = value end
  local models = H:models(o)
  core.no_grad(function()
    for _, p in ipairs(models:parameters()) do p:add_(core.randn(p:shape()) * 0.05) end
  end)
  return models
end

-- Networks that note what they are told: calls[i] = { x, t, cond }; they give zeros.
local function watched(H, opts)
  local calls, specs = {}, {}
  local o = { net = function(spec)
    specs[#specs + 1] = spec
    return function(z, t, cond)
      calls[#calls + 1] = { x = z, t = t, cond = cond }
      if cond.context then core.keep(cond.context) end -- longer than the sampler's step
      return z * 0
    end
  end }
  for key, value in next, opts or {} do o[key] = value end
  return H:models(o), calls, specs
end

describe("networks", function()
  it("are one for each level, with the channels of their contexts", function()
    local _, _, specs = watched(pictures())
    assert.are.equal(3, #specs)
    assert.are.same({ channels = 1, context = 0, dims = 2, extents = { 2, 2 } }, specs[1])
    assert.are.same({ channels = 2, context = 1, dims = 2, extents = { 2, 2 } }, specs[2])
    assert.are.same({ channels = 3, context = 3, dims = 2, extents = { 8, 8 } }, specs[3])
  end)

  it("or one for all, or one for x", function()
    local _, _, specs = watched(pictures(), { share = true })
    assert.are.equal(1, #specs)
    assert.are.same({ 3, 3, 3 }, { specs[1].channels, specs[1].context, specs[1].levels })
    _, _, specs = watched(pictures(), { regime = "flat" })
    assert.are.same({ { channels = 3, context = 0, dims = 2, extents = { 8, 8 } } }, specs)
  end)

  it("all learn: every parameter gets a gradient", function()
    for _, opts in ipairs { {}, { share = true }, { regime = "flat" } } do
      local H = pictures()
      local models = random_models(H, opts)
      H:loss(models, x, { rng = core.rng(1) }):backward()
      local count = 0
      for name, p in models:named_parameters() do
        count = count + 1
        assert.is_true(p:grad() ~= nil and p:grad():abs():amax():item() > 0, name)
      end
      assert.are.equal(#models:parameters(), count)
    end
  end)

  it("have their widths, and are refused without shapes or with unknown words", function()
    local H = pictures()
    local models = H:models { width = { shapes = 8, colours = 16, textures = 8 } }
    assert.are.equal(16, models.colours.conv_in.weight:size(1))
    assert.matches("there is no level 'shape'. did you mean 'shapes'", message(H.models, H, { width = { shape = 8 } }))
    assert.matches("did you mean 'unet'", message(H.models, H, { net = "unett" }))
    local fresh = hierarchy.new { levels = { { name = "a" } }, split = print, join = print }
    assert.matches("shapes of the levels are not known yet", message(fresh.models, fresh))
  end)
end)

describe("the loss", function()
  it("shows each network its noisy level, its time, the context and the noise on it", function()
    local H = pictures()
    local models, calls = watched(H)
    local _, parts = H:loss(models, x, { rng = core.rng(1) })
    assert.are.same({ "64,1,2,2", "64,2,2,2", "64,3,8,8" },
      { shape_of(calls[1].x), shape_of(calls[2].x), shape_of(calls[3].x) })
    assert.is_nil(calls[1].cond.context)
    assert.are.equal("64", shape_of(calls[1].t))
    assert.are.equal("64,3,8,8", shape_of(calls[3].cond.context))
    local told = calls[2].t[2] * 1e-3 -- the noise on the context: uniform up to t_aug
    assert.is_true(told:amin():item() >= 0 and told:amax():item() <= 0.3 and told:amax():item() > 0.25)
    local noise = (calls[2].cond.context - H:standardised(x).shapes) / told:view(64, 1, 1, 1)
    assert.is_true(math.abs(noise:square():mean():item() - 1) < 5 * math.sqrt(2 / 256))
    -- EDM's target has unit variance, so a network that gives zeros has a loss of 1
    for _, name in ipairs(NAMES) do assert.is_true(math.abs(parts[name] - 1) < 0.3, name .. " " .. parts[name]) end
  end)

  it("tells the time of the noise", function()
    local s = schedule.cosine()
    local H = hierarchy.new { shape = { 1, 64 }, split = function(z) return { a = z } end,
      join = function(z) return z.a end, levels = { { name = "a", schedule = s, predict = "v" } } }
    local models, calls = watched(H)
    H:loss(models, core.zeros(32, 1, 64), { rng = core.rng(1) }) -- nothing but noise
    local found = calls[1].x:square():mean({ 2, 3 }):sqrt():totable()
    for i, told in ipairs(calls[1].t:totable()) do
      local _, sigma = s:alpha_sigma((told + 1) / s.T)
      assert.is_true(math.abs(found[i] / sigma - 1) < 5 / math.sqrt(2 * 64))
    end
  end)

  it("tells a shared network the level, and the coarsest that it has no context", function()
    local H = pictures()
    local models, calls = watched(H, { share = true })
    H:loss(models, x, { rng = core.rng(1) })
    for i, call in ipairs(calls) do
      assert.are.equal(i, call.cond.labels:amin():item())
      assert.are.equal(2, #call.t)
      assert.are.equal(3, call.x:size(2))
      assert.are.equal(3, call.cond.context:size(2))
    end
    assert.are.equal(0, calls[1].t[2])
    assert.are.equal(0, calls[1].cond.context:abs():amax():item())
  end)

  it("is the weighted sum of the levels', all or those named", function()
    local H = pictures()
    local models = random_models(H)
    H:level "colours".weight = 3
    local loss, parts = H:loss(models, x, { rng = core.rng(1) })
    assert.is_true(math.abs(loss:item() - parts.shapes - 3 * parts.colours - parts.textures) < 1e-4)
    loss, parts = H:loss(models, x, { levels = { "colours" } })
    assert.is_nil(parts.shapes)
    loss:backward()
    assert.is_nil(models.shapes.conv_in.weight:grad())
    assert.matches("there is no level 'colour'. did you mean", message(H.loss, H, models, x, { levels = { "colour" } }))
    assert.matches("x has the wrong shape: got %[2,3,16,16%], expected %[n,3,8,8%]",
      message(H.loss, H, models, core.zeros(2, 3, 16, 16)))
  end)

  it("is told by its generator alone", function()
    local H = pictures()
    local models = random_models(H)
    local function loss(seed) return (H:loss(models, x, { rng = core.rng(seed) })):item() end
    assert.are.equal(loss(1), loss(1))
    assert.are_not.equal(loss(1), loss(2))
  end)

  it("wants models of its regime", function()
    local H = pictures()
    local flat = H:models { width = 8, regime = "flat" }
    assert.are.same({ "flat" }, { next((select(2, H:loss(flat, x)))), nil })
    assert.matches("there is no network for 'shapes': these models were made for the regime 'flat'",
      message(H.loss, H, flat, x, { regime = "cascade" }))
    assert.matches("no network for 'flat': .* 'cascade'", message(H.loss, H, H:models { width = 8, share = true }, x,
      { regime = "flat" }))
    assert.matches("option 'regime' is wrong: got 'flt'. did you mean 'flat'",
      message(H.loss, H, flat, x, { regime = "flt" }))
  end)
end)

describe("drawing", function()
  local H = pictures()
  local models = random_models(H)
  local clean = H:split(x:narrow(1, 1, 2))

  -- The levels as they are drawn, and x.
  local function draw(n, opts)
    local z, order = {}, {}
    opts.steps, opts.seed = opts.steps or 3, 5
    opts.on_level = function(name, value)
      z[name] = value
      order[#order + 1] = name
    end
    return z, H:sample(models, n, opts), order
  end

  it("leaves held levels bit-identical", function()
    local z, y, order = draw(2, { hold = { shapes = clean.shapes, textures = clean.textures } })
    assert.are.same(NAMES, order)
    assert.is_true(z.shapes:equal(clean.shapes) and z.textures:equal(clean.textures))
    assert.is_true(distance(z.colours, clean.colours) > 0.1)
    assert.is_true(y:equal(H:join(z)))
    assert.is_true(select(2, draw(2, { hold = clean })):equal(H:join(clean)))
  end)

  it("stops after a level, with finer ones at their mean or held; resumed, it is one run", function()
    local whole, y = draw(2, {})
    local z, stopped, order = draw(2, { stop_after = "colours" })
    assert.are.same({ "shapes", "colours" }, order)
    assert.is_true(z.colours:equal(whole.colours))
    local textures = H:standardise("textures", H:split(stopped).textures)
    assert.is_true(textures:abs():amax():item() < 1e-3)
    z = draw(2, { hold = { shapes = whole.shapes, colours = whole.colours } })
    assert.is_true(distance(z.textures, whole.textures) < 1e-4)
    z = H:split(select(2, draw(2, { stop_after = "shapes", hold = { textures = clean.textures } })))
    assert.is_true(distance(z.textures, clean.textures) < 1e-5)
    assert.is_true(y:equal(H:join(whole)))
  end)

  it("gives each level's picture, which add up to x", function()
    local y, parts = H:sample(models, 2, { steps = 2, all = true })
    assert.is_true(distance(parts.shapes + parts.colours + parts.textures, y) < 1e-5)
    assert.is_true(H:split(parts.shapes).textures:abs():amax():item() < 1e-5)
    local flat = H:models { width = 8, regime = "flat" }
    local seen
    local z, pictured = H:sample(flat, 2, { steps = 2, all = true, on_level = function(...) seen = { ... } end })
    assert.is_true(seen[1] == "flat" and seen[2]:equal(z))
    assert.is_true(distance(pictured.shapes + pictured.colours + pictured.textures, z) < 1e-5)
  end)

  it("makes the steps asked for: of the level, a number for all, or one for each", function()
    local function count(steps)
      local counts = {}
      H:sample(models, 1, { steps = steps, on_step = function(s) counts[s.level] = (counts[s.level] or 0) + 1 end })
      return counts
    end
    assert.are.same({ shapes = 18, colours = 18, textures = 18 }, count())
    assert.are.same({ shapes = 2, colours = 2, textures = 2 }, count(2))
    assert.are.same({ shapes = 18, colours = 4, textures = 1 }, count { colours = 4, textures = 1 })
  end)

  it("tells stand-ins for networks all levels and their noise", function()
    local told, denoise = {}, {}
    for _, name in ipairs(NAMES) do
      denoise[name] = function(z, sigmas, levels)
        told[name] = told[name] or { sigmas = sigmas, levels = levels, own = z }
        return z * 0
      end
    end
    local noise, held = { shapes = core.ones { 32, 1, 2, 2 } }, H:split(x:narrow(1, 1, 32)).textures
    H:sample(nil, 32, { denoise = denoise, noise = noise, steps = 2, t_aug = 0.2, hold = { textures = held } })
    assert.are.same({ shapes = 80, colours = 80, textures = 0 }, told.shapes.sigmas)
    assert.are.same({ shapes = 0.2, colours = 80, textures = 0 }, told.colours.sigmas)
    assert.is_true(told.shapes.levels.shapes:equal(told.shapes.own))
    assert.is_true(distance(told.shapes.own, noise.shapes * 80) < 1e-6)
    assert.is_true(told.shapes.levels.textures:equal(H:standardise("textures", held)))
    local augmentation = told.colours.levels.shapes -- shapes are 0 themselves
    assert.is_true(math.abs(augmentation:square():mean():sqrt():item() / 0.2 - 1) < 5 / math.sqrt(2 * 4 * 32))
    assert.is_nil(told.textures)
  end)

  it("shows networks the context on their grid", function()
    local watching, calls = watched(H)
    H:sample(watching, 2, { steps = 1, t_aug = 0, hold = { shapes = clean.shapes, colours = clean.colours } })
    assert.are.equal(1, #calls)
    local shapes = H:standardise("shapes", clean.shapes)
    assert.is_true(calls[1].cond.context:narrow(2, 1, 1):equal(core.op.interpolate(shapes, { size = { 8, 8 },
      mode = "nearest" })))
    assert.are.equal(0, calls[1].t[2])
    watching, calls = watched(H, { share = true })
    H:sample(watching, 2, { steps = 1, t_aug = 0.2 })
    assert.are.same({ 0, 200, 200 }, { calls[1].t[2], calls[2].t[2], calls[3].t[2] })
  end)

  it("begins with noise that is the sample's own in any batch, and so are the samples", function()
    local starts = {}
    local function noting(denoise, z, sigmas, opts)
      starts[#starts + 1] = z
      return sampler.heun(denoise, z, sigmas, opts)
    end
    local function run(n, more)
      starts = {}
      local o = { seed = 5, steps = 3, sampler = noting }
      for key, value in next, more or {} do o[key] = value end
      return H:sample(models, n, o), starts
    end
    local all, noise = run(16)
    for _, n in ipairs { 1, 3 } do
      local y, same = run(n)
      for i = 1, 3 do assert.is_true(same[i]:equal(noise[i]:narrow(1, 1, n))) end
      assert.is_true(distance(y, all:narrow(1, 1, n)) < 1e-5)
    end
    local later, same = run(4, { first = 7 })
    for i = 1, 3 do assert.is_true(same[i]:equal(noise[i]:narrow(1, 7, 4))) end
    assert.is_true(distance(later, all:narrow(1, 7, 4)) < 1e-5)
    assert.is_true(distance(run(16, { batch = 5 }), all) < 1e-5)
    assert.is_false(noise[1]:narrow(1, 1, 1):equal(noise[1]:narrow(1, 2, 1)))
    assert.is_false(select(2, run(1, { seed = 6 }))[1]:equal(noise[1]:narrow(1, 1, 1)))
    assert.is_true(math.abs(noise[3]:square():mean():sqrt():item() / 80 - 1) < 0.05)
  end)

  it("leaves the default generator alone", function()
    core.seed(3)
    local expected = core.rand(4)
    core.seed(3)
    H:sample(models, 1, { steps = 2, sampler = sampler.ancestral })
    assert.is_true(core.rand(4):equal(expected))
  end)

  it("holds the last level's estimates to the data's range, unless told not to", function()
    local flat = random_models(H, { regime = "flat" })
    local function most(which, clip)
      return H:sample(which, 4, { steps = 3, clip = clip }):abs():amax():item()
    end
    assert.near(1, most(flat, true), 1e-6) -- rounded once more where products and sums are not fused
    assert.is_true(most(flat, false) > 1.5)
    -- of several levels only the last gives way, so x may be a little outside
    assert.is_true(most(models, true) < 0.7 * most(models, false))
  end)

  it("calls networks of every prediction with the time of its noise", function()
    -- the best F for data N(0, 1), from the time told: E x0 = alpha x / (alpha^2 + sigma^2), E eps = sigma x / (...)
    local best = {
      x0 = function(alpha) return alpha end, eps = function(_, sigma) return sigma end, v = function() return 0 end,
      flow = function(alpha, sigma) return sigma - alpha end, edm = function() return 0 end,
    }
    for _, s in ipairs { schedule.vp(), schedule.flow() } do
      for kind, factor in next, best do
        local one = hierarchy.new { shape = { 1, 8 }, split = function(z) return { a = z } end,
          join = function(z) return z.a end, levels = { { name = "a", schedule = s, predict = kind } } }
        local function net(z, told)
          local alpha, sigma = s:alpha_sigma(told / 1000)
          return z * (factor(alpha, sigma) / (alpha ^ 2 + sigma ^ 2))
        end
        local y = one:sample(one:models { net = function() return net end }, 500, { steps = 40 })
        local deviation = y:square():mean():sqrt():item()
        assert.is_true(math.abs(deviation - 1) < 0.06, ("%s: %g"):format(kind, deviation))
      end
    end
  end)

  it("untrained networks give the statistics of the data", function()
    local function matches(name, z)
      assert.is_true(math.abs(z:mean():item()) < 0.2, name)
      assert.is_true(math.abs(z:square():mean():item() - 1) < 0.25, name)
    end
    local y = H:sample(H:models { width = 8 }, 200, { clip = false, t_aug = 0 })
    for name, z in next, H:standardised(y) do matches(name, z) end
    y = H:sample(H:models { width = 8, regime = "flat" }, 32, { clip = false })
    matches("flat", H:standardise("flat", y))
  end)

  it("works with averaged models", function()
    local ema = optim.EMA(models)
    assert.is_true(H:sample(ema.model, 2, { steps = 2 }):equal(H:sample(models, 2, { steps = 2 })))
  end)

  it("refuses what it does not know", function()
    local function refused(opts, n, with) return message(H.sample, H, with or models, n or 2, opts) end
    assert.matches("there is no level 'shape'. did you mean 'shapes'", refused { hold = { shape = clean.shapes } })
    assert.matches("there is no level 'texture'. did you mean", refused { stop_after = "texture" })
    assert.matches("there is no level 'color'. did you mean", refused { steps = { color = 3 } })
    assert.matches("there is no level 'a'. known: shapes, colours, textures", refused { noise = { a = x } })
    assert.matches("there is no level 'shap'", refused { denoise = { shap = print } })
    assert.matches("regime is wrong: got 'flatt'. did you mean 'flat'", refused { regime = "flatt" })
    assert.matches("hold.shapes is wrong: got tensor f32 %[2,1,2,2%], expected %[3,1,2,2%]",
      refused({ hold = { shapes = clean.shapes } }, 3))
    assert.matches("denoise.shapes is wrong: got 3, expected function", refused { denoise = { shapes = 3 } })
    assert.matches("steps.shapes is wrong: got 0", refused { steps = { shapes = 0 } })
    assert.matches("n is wrong: got 0", refused({}, 0))
    assert.matches("unknown option 'sede'. did you mean 'seed'", refused { sede = 1 })
    assert.matches("level 'shapes' has neither a network nor", message(H.sample, H, nil, 1))
    assert.matches("no network for 'flat'", refused { regime = "flat" })
    local flat = H:models { width = 8, regime = "flat" }
    assert.matches("hold is for levels", refused({ hold = { shapes = clean.shapes } }, 2, flat))
    assert.matches("stop_after is for regimes", refused({ stop_after = "shapes" }, 2, flat))
    assert.matches("level 'shapes' has no function in denoise", refused({ denoise = { colours = print } }, 2, flat))
  end)
end)

-- Tables with string keys have another order in each process; threads share the work differently.
it("training and drawing have the same bits in every process, at any number of threads", function()
  local path = os.tmpname()
  local file <close> = assert(io.open(path, "w"))
  file:write [[
    local hd = require "hd"
    hd.seed(1)
    local set = hd.data.shapes { size = 8, n = 32 }
    local H = hd.hierarchy.images { size = 8 }:fit_stats(set)
    local x = set.x:to "f32" * (1 / 127.5) - 1
    for _, share in ipairs { false, true } do
      local models = H:models { width = 8, share = share }
      local opt = hd.optim.AdamW(models:parameters(), { lr = 1e-2 })
      for _ = 1, 3 do
        local loss = H:loss(models, x)
        opt:zero_grad() loss:backward() opt:step()
        print(("%a"):format(loss:item()))
      end
      for _, v in ipairs(H:sample(models, 2, { steps = 2 }):reshape(-1):totable()) do io.write(("%a "):format(v)) end
    end
  ]]
  file:close()
  local function run(threads)
    local pipe <close> = assert(io.popen(("'%s' --threads %d %s 2>&1"):format(hdlua, threads, path)))
    return pipe:read "a"
  end
  local first = run(1)
  assert.is_true(select(2, first:gsub("0x", "")) == 2 * (3 + 2 * 192), first)
  for _, threads in ipairs { 1, 2, 3 } do assert.are.equal(first, run(threads)) end
  os.remove(path)
end)
