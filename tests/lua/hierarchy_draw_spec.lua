-- tests/lua/hierarchy_draw_spec.lua: samples of a hierarchy of small pictures: regimes, held levels, editing.

local core = require "hd.core"
local hierarchy = require "hd.hierarchy"
local optim = require "hd.optim"
local sampler = require "hd.sampler"
local schedule = require "hd.schedule"
local small = require "tests.lua.small_pictures"

local NAMES = { "shapes", "colours", "textures" }
local message, distance, set, x = small.message, small.distance, small.set, small.x
local pictures, random_models, watched = small.pictures, small.random_models, small.watched

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
    assert.near(250 * math.log(0.002), calls[1].t[2], 1e-6) -- the least that the schedule knows
    watching, calls = watched(H, { share = true })
    H:sample(watching, 2, { steps = 1, t_aug = 0.2 })
    assert.are.equal(0, calls[1].t[2])
    for _, told in ipairs { calls[2].t[2], calls[3].t[2], calls[3].t[3] } do
      assert.near(250 * math.log(0.2), told, 1e-6)
    end
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

describe("regimes", function()
  local function times_of(call)
    local list = {}
    for i, t in ipairs(type(call.t) == "table" and call.t or { call.t }) do
      list[i] = type(t) == "number" and t or t:totable()
    end
    return list
  end

  it("show networks all other levels, in training at the times that the clocks give", function()
    for _, regime in ipairs { "joint", "staggered", "free" } do
      local H = pictures { regime = regime }
      local models, calls, specs = watched(H)
      assert.are.same({ 47, 46, 3 }, { specs[1].context, specs[2].context, specs[3].context })
      H:loss(models, x, { rng = core.rng(1) })
      local equal, parked, lead = 0, 0, 0
      for i = 1, 64 do
        -- times of colours as the networks of colours and textures are told them: (ln of the noise) 250
        local own, shapes, textures = table.unpack(times_of(calls[2]))
        equal = equal + (math.abs(own[i] - shapes[i]) < 1 and math.abs(own[i] - textures[i]) < 1 and 1 or 0)
        parked = parked + (shapes[i] < 250 * math.log(0.0021) and 1 or 0)
        lead = lead + (shapes[i] <= own[i] + 1 and own[i] <= textures[i] + 1 and 1 or 0)
      end
      assert.are.equal(regime == "joint" and 64 or 0, equal)
      if regime == "staggered" then assert.are.equal(64, lead) end
      if regime == "free" then
        assert.is_true(parked > 4 and parked < 32)
        assert.is_true(lead < 40)
      end
    end
  end)

  it("an own clock is trained as it samples", function()
    local H = hierarchy.images { size = 8 }:fit_stats(set)
    local function clocks(u) return { shapes = u ^ 2, colours = u, textures = u } end
    local own = hierarchy.new { split = H.split_fn, join = H.join_fn, shape = { 3, 8, 8 }, clocks = clocks,
      levels = { { name = "shapes" }, { name = "colours" }, { name = "textures" } } }
    assert.are.equal("joint", own.regime)
    local models, calls = watched(own)
    own:loss(models, x, { rng = core.rng(1) })
    local s = schedule.karras()
    for i, told in ipairs(calls[2].t[2]:totable()) do
      local u = s:time_of(math.exp(calls[2].t[1]:get(i) / 250))
      assert.near(u ^ 2, s:time_of(math.exp(told / 250)), 1e-4)
    end
    local seen = {}
    local stand_in = function(z, sigmas)
      seen[#seen + 1] = sigmas
      return z * 0
    end
    own:sample(nil, 1, { steps = 4, sampler = sampler.euler,
      denoise = { shapes = stand_in, colours = stand_in, textures = stand_in } })
    assert.are.equal(12, #seen)
    for i = 1, 12, 3 do
      assert.are.equal(seen[i].colours, seen[i].textures)
      assert.is_true(seen[i].shapes <= seen[i].colours)
    end
    assert.is_true(seen[7].shapes < seen[7].colours)
  end)

  it("hold levels, and let each level have its own steps and sampler", function()
    local H = pictures { regime = "joint" }
    local models = random_models(H)
    local clean, counts, z = H:split(x:narrow(1, 1, 2)), {}, {}
    local y = H:sample(models, 2, { steps = { shapes = 6, textures = 3 }, hold = { colours = clean.colours },
      on_step = function(step) counts[step.level] = (counts[step.level] or 0) + 1 end,
      on_level = function(name, value) z[name] = value end })
    assert.are.same({ shapes = 6, textures = 3 }, counts)
    assert.is_true(z.colours:equal(clean.colours) and y:equal(H:join(z)))
    H:level "shapes".sampler = sampler.dpmpp_2m
    assert.is_true(distance(H:sample(models, 2, { steps = 4 }), H:sample(models, 1, { steps = 4 }):expand(2, 3, 8, 8))
      > 0.01)
    H:level "shapes".sampler = function(_, noise) return noise * 0 end
    assert.matches("sampler of level 'shapes' did not call on_step", message(H.sample, H, models, 1, { steps = 4 }))
  end)

  it("networks of one regime refuse another; those of free take all", function()
    local joint = random_models(pictures(), { regime = "joint" })
    local H = pictures()
    assert.matches("regime 'cascade' does not fit: these models were made for the regime 'joint'",
      message(H.sample, H, joint, 1, { regime = "cascade" }))
    assert.matches("no network for 'flat'", message(H.loss, H, joint, x, { regime = "flat" }))
    local free, drawn = random_models(H, { regime = "free" }), {}
    for i, regime in ipairs { "cascade", "joint", "staggered" } do
      drawn[i] = H:sample(free, 1, { regime = regime, steps = 3 })
      assert.is_true(i == 1 or distance(drawn[i], drawn[i - 1]) > 1e-3)
    end
    drawn[4] = H:sample(free, 1, { clocks = function(u)
      return { shapes = u, colours = u, textures = u }
    end, steps = 3 })
    assert.is_true(drawn[4]:equal(drawn[2]))
  end)

  it("clocks that cannot be are refused", function()
    local H = pictures()
    local free = H:models { width = 8, regime = "free" }
    local function refused(clocks) return message(H.sample, H, free, 1, { clocks = clocks, steps = 4 }) end
    assert.matches("time of level 'textures' at progress 1 is wrong: got nil, expected 0 to 1",
      refused(function(u) return { shapes = u, colours = u } end))
    assert.matches("time of level 'shapes' rises: got 0.25 at progress 0.75, expected at most 0",
      refused(function(u) return { shapes = 1 - u, colours = u, textures = u } end))
    assert.matches("level 'textures' is not done at progress 0: got time 0.5",
      refused(function(u) return { shapes = u, colours = u, textures = 0.5 + u / 2 } end))
    assert.matches("lag is wrong: got 2", message(H.sample, H, free, 1, { lag = 2 }))
    assert.matches("own clocks need networks of the regime 'free': got 'cascade'", message(H.sample, H,
      H:models { width = 8 }, 1, { clocks = function(u) return { shapes = u, colours = u, textures = u } end }))
  end)
end)

describe("drawing from data", function()
  local H = pictures()
  local models = random_models(H)
  local four = x:narrow(1, 1, 4)

  it("begins with the noise of the time given: 0 gives the data, 1 a sample", function()
    local function from(t, more)
      local o = { steps = 4, seed = 3, start_from = t and { x = four, t = t } }
      for key, value in next, more or {} do o[key] = value end
      return H:sample(models, 4, o)
    end
    assert.is_true(distance(from(0), four) < 1e-5)
    assert.is_true(from(1):equal(from()))
    local near_by, far = distance(from(0.3), four), distance(from(0.7), four)
    assert.is_true(0 < near_by and near_by < far)
    local sigmas = {}
    from(0.5, { on_step = function(step)
      sigmas[step.level] = sigmas[step.level] or step.sigma
    end })
    local grid = schedule.karras():sigmas { steps = 4 }
    for _, name in ipairs(NAMES) do assert.near(grid[3], sigmas[name], 1e-6) end
    assert.is_true(from(0.5, { batch = 3 }):equal(from(0.5)) or distance(from(0.5, { batch = 3 }), from(0.5)) < 1e-5)
  end)

  it("of single levels, each from its own time, and of x in the flat regime", function()
    local z = H:split(four)
    local y = H:split(H:sample(models, 4, { steps = 3,
      start_from = { levels = { shapes = z.shapes, textures = z.textures }, t = { shapes = 0, textures = 0.4 } } }))
    assert.is_true(distance(y.shapes, z.shapes) < 1e-5)
    assert.is_true(distance(y.colours, z.colours) > 0.3)
    local flat = random_models(H, { regime = "flat" })
    assert.is_true(distance(H:sample(flat, 4, { steps = 3, start_from = { x = four, t = 0 } }), four) < 1e-5)
    assert.is_true(distance(H:sample(flat, 4, { steps = 3, start_from = { x = four, t = 0.5 } }), four) > 0.01)
  end)

  it("keeps what is known of x, in every regime, and fits the rest to it", function()
    local mask = core.zeros(1, 1, 8, 8)
    mask:narrow(4, 1, 3):add_(1) -- not along the blocks of the levels
    for _, regime in ipairs { "flat", "cascade", "joint", "staggered" } do
      local nets = random_models(H, { regime = regime })
      local y = H:sample(nets, 4, { steps = 3, inpaint = { x = four, mask = mask } })
      assert.is_true(((y - four) * mask):abs():amax():item() < 1e-5, regime)
      assert.is_true(((y - four) * (1 - mask)):abs():amax():item() > 0.1, regime)
      local all = H:sample(nets, 4, { steps = 3, inpaint = { x = four, mask = mask * 0 + 1 } })
      assert.is_true(distance(all, four) < 1e-5, regime)
    end
    -- the best networks for pictures of one colour: the rest takes the colour of what is known
    local function plain(z, sigmas, levels, name)
      local own = { flat = z }
      return (name == "textures" and z * 0 or z:mean({ 3, 4 }, true):expand(z:shape())), own, sigmas, levels
    end
    local even = hierarchy.images { size = 8 }
    local known = core.full({ 2, 3, 8, 8 }, 0.5)
    local denoise = {}
    for _, name in ipairs(NAMES) do
      denoise[name] = function(z, sigmas, levels) return (plain(z, sigmas, levels, name)) end
    end
    local y = even:sample(nil, 2, { denoise = denoise, inpaint = { x = known, mask = mask } })
    assert.is_true(distance(y, known) < 0.1, distance(y, known))
    assert.is_true(distance(even:sample(nil, 2, { denoise = denoise }), known) > 1)
  end)

  it("refuses what does not fit", function()
    local function refused(o) return message(H.sample, H, models, 4, o) end
    assert.matches("start_from: option 't' is missing", refused { start_from = { x = four } })
    assert.matches("start_from.t is wrong: got 1.5", refused { start_from = { x = four, t = 1.5 } })
    assert.matches("start_from.%a+ is wrong: got tensor f32 %[2,%d,2,2%], expected %[4,",
      refused { start_from = { levels = { colours = H:split(four:narrow(1, 1, 2)).colours }, t = 1 } })
    assert.matches("there is no level 'colour'", refused { start_from = { levels = { colour = four }, t = 1 } })
    assert.matches("inpaint: option 'mask' is missing", refused { inpaint = { x = four } })
    assert.matches("inpaint.x is wrong: got tensor f32 %[2,3,8,8%], expected %[4,3,8,8%]",
      refused { inpaint = { x = four:narrow(1, 1, 2), mask = core.ones(1, 1, 8, 8) } })
    assert.matches("inpaint.mask is wrong: got tensor f32 %[5,5%]",
      refused { inpaint = { x = four, mask = core.ones(5, 5) } })
  end)
end)
