-- tests/lua/hierarchy_run_spec.lua: networks, losses, labels, options of training and files of a hierarchy of small
-- pictures.

local core = require "hd.core"
local data = require "hd.data"
local hierarchy = require "hd.hierarchy"
local optim = require "hd.optim"
local schedule = require "hd.schedule"
local small = require "tests.lua.small_pictures"

local hdlua = assert(os.getenv "HDLUA", "HDLUA is not set: run by tests/run.sh")
local NAMES = { "shapes", "colours", "textures" }
local message, shape_of, distance, set = small.message, small.shape_of, small.distance, small.set
local x, pictures, random_models, watched = small.x, small.pictures, small.random_models, small.watched

describe("networks", function()
  it("are one for each level, with the channels of their contexts", function()
    local _, _, specs = watched(pictures())
    assert.are.equal(3, #specs)
    assert.are.same({ channels = 1, context = 0, times = 1, dims = 2, extents = { 2, 2 } }, specs[1])
    assert.are.same({ channels = 2, context = 1, times = 2, dims = 2, extents = { 2, 2 } }, specs[2])
    assert.are.same({ channels = 3, context = 3, times = 3, dims = 2, extents = { 8, 8 } }, specs[3])
  end)

  it("or one for all, or one for x", function()
    local _, _, specs = watched(pictures(), { share = true })
    assert.are.equal(1, #specs)
    assert.are.same({ 3, 3, 3 }, { specs[1].channels, specs[1].context, specs[1].levels })
    _, _, specs = watched(pictures(), { regime = "flat" })
    assert.are.same({ { channels = 3, context = 0, times = 1, dims = 2, extents = { 8, 8 } } }, specs)
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
    models = H:models { width = 16 } -- a factor of their own, as textures have: of one number only
    assert.are.equal(16, models.colours.conv_in.weight:size(1))
    assert.are.equal(8, models.textures.conv_in.weight:size(1))
    assert.are.equal(16, H:models { width = 16, share = true }.shared.conv_in.weight:size(1))
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
    local told = (calls[2].t[2] * (1 / 250)):exp() -- EDM's time, of the noise on the context: uniform up to t_aug
    assert.is_true(told:amin():item() >= 0 and told:amax():item() <= 0.30001 and told:amax():item() > 0.25)
    local unscaled = calls[2].cond.context * (told:square() + 1):sqrt():view(64, 1, 1, 1)
    local noise = (unscaled - H:standardised(x).shapes) / told:view(64, 1, 1, 1)
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
      assert.are.equal(4, #call.t) -- its own and a place for each level
      assert.are.equal(3, call.x:size(2))
      assert.are.equal(3, call.cond.context:size(2))
    end
    assert.are.same({ 0, 0, 0 }, table.move(calls[1].t, 2, 4, 1, {}))
    assert.are.equal(0, calls[3].t[4])
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

describe("classes", function()
  local H = pictures()

  it("are told to networks, some of them not in training", function()
    for _, share in ipairs { false, true } do
      local models, calls, specs = watched(H, { classes = 5, share = share })
      assert.are.equal(share and 18 or 6, specs[1].labels)
      local labels = core.full({ 64 }, 2, { dtype = "i64" })
      H:loss(models, x, { labels = labels, label_dropout = 0.5, rng = core.rng(1) })
      for i, call in ipairs(calls) do
        local row = share and 6 * (i - 1) or 0
        local none = call.cond.labels:eq(row + 6):to "f32":sum():item()
        assert.is_true(none > 12 and none < 52)
        assert.are.equal(64, none + call.cond.labels:eq(row + 2):to "f32":sum():item())
      end
      calls[1] = nil
      H:sample(models, 2, { labels = 3, steps = 1 })
      assert.are.equal((share and 12 or 0) + 3, calls[#calls].cond.labels:amin():item())
      H:sample(models, 2, { steps = 1 })
      assert.are.equal((share and 12 or 0) + 6, calls[#calls].cond.labels:amin():item())
    end
  end)

  it("learn, and guide by level, within an interval", function()
    local models = random_models(H, { classes = 3 })
    local labels = core.randint(1, 3, { 64 }, { rng = core.rng(4) })
    H:loss(models, x, { labels = labels, rng = core.rng(1) }):backward()
    assert.is_true(models.colours.class_embedding.weight:grad():abs():amax():item() > 0)
    local function drawn(guidance, more)
      local o = { seed = 1, steps = 3, t_aug = 0, guidance = guidance,
        labels = core.tensor({ 1, 2 }, { dtype = "i64" }) }
      for key, value in next, more or {} do o[key] = value end
      return H:split(H:sample(models, 2, o))
    end
    local plain, strong = drawn(nil), drawn { textures = 6 }
    assert.is_true(strong.shapes:equal(plain.shapes) and strong.colours:equal(plain.colours)
      or distance(strong.colours, plain.colours) < 1e-5)
    assert.is_true(distance(strong.textures, plain.textures) > 1e-3)
    assert.is_true(distance(drawn(1).textures, plain.textures) < 1e-6)
    assert.is_true(distance(drawn { textures = { scale = 6, s_min = 100 } }.textures, plain.textures) < 1e-6)
    H:level "textures".guidance = 6
    assert.is_true(distance(drawn(nil).textures, strong.textures) < 1e-6)
    H:level "textures".guidance = nil
    -- guided away from weaker models: without labels of their own
    local weak = random_models(H, { classes = 3 })
    assert.is_true(distance(drawn(3, { weak = weak }).shapes, plain.shapes) < 1e-4) -- the same weights: no difference
  end)

  it("are refused where they do not fit", function()
    local models, none = random_models(H, { classes = 3 }), random_models(H)
    local function refused(m, o) return message(H.sample, H, m, 2, o) end
    assert.matches("the models know no classes", refused(none, { labels = 1 }))
    assert.matches("labels is wrong: got 4 to 4, expected 1 to 3", refused(models, { labels = 4 }))
    assert.matches("labels is wrong: got tensor i64 %[3%], expected an integer or whole numbers %[2%]",
      refused(models, { labels = core.ones({ 3 }, { dtype = "i64" }) }))
    assert.matches("guidance needs labels", refused(models, { guidance = 2 }))
    assert.matches("there is no level 'texture'", refused(models, { labels = 1, guidance = { texture = 2 } }))
    assert.matches("labels is wrong: got 0", message(H.loss, H, models, x, { labels = 0 }))
  end)
end)

describe("training options", function()
  local H = pictures()

  it("contexts enter as channels, pooled, or as tokens, and all learn", function()
    local function three(by)
      return hierarchy.new { split = H.split_fn, join = H.join_fn, shape = { 3, 8, 8 }, levels = {
        { name = "shapes" }, { name = "colours" }, { name = "textures", context_by = by } } }:fit_stats(set)
    end
    for by, wanted in next, { film = { 0, 6, nil }, attention = { 0, nil, 47 } } do
      local own = three(by)
      local watching, calls, specs = watched(own)
      assert.are.same(wanted, { specs[3].context, specs[3].vector, specs[3].tokens })
      own:loss(watching, x, { rng = core.rng(1) })
      assert.is_nil(calls[3].cond.context)
      local seen = by == "film" and calls[3].cond.vector or calls[3].cond.tokens
      assert.are.equal(by == "film" and "64,6" or "64,8,47", shape_of(seen))
      local models = random_models(own)
      own:loss(models, x, { rng = core.rng(1) }):backward()
      for name, p in models:named_parameters() do assert.is_true(p:grad():abs():amax():item() > 0, name) end
      assert.are.equal("2,3,8,8", shape_of(own:sample(models, 2, { steps = 2 })))
    end
    local _, _, specs = watched(three { shapes = "film", colours = "concat" })
    assert.are.same({ 2, 2 }, { specs[3].context, specs[3].vector })
    assert.matches("share is for contexts that are concatenated: 'textures' sees",
      message(H.models, three "film", { share = true }))
  end)

  it("a level may have a part of the batch, and another error", function()
    local own = hierarchy.new { split = H.split_fn, join = H.join_fn, shape = { 3, 8, 8 }, levels = {
      { name = "shapes" }, { name = "colours", batch_share = 0.5 }, { name = "textures", batch_share = 0.01 } } }
    local models, calls = watched(own)
    own:loss(models, x)
    assert.are.same({ 64, 32, 1 }, { calls[1].x:size(1), calls[2].x:size(1), calls[3].x:size(1) })
    local function loss_of(kind)
      own:level "shapes".loss = kind
      return select(2, own:loss(models, x, { rng = core.rng(1) })).shapes
    end
    assert.is_true(loss_of "huber" < 0.5 * loss_of "mse" + 1e-6)
  end)

  it("noise levels may count more or less", function()
    local own = hierarchy.new { split = H.split_fn, join = H.join_fn, shape = { 3, 8, 8 }, levels = {
      { name = "shapes" }, { name = "colours" }, { name = "textures" } } }
    local models = random_models(own)
    local function loss_of(weight)
      own:level "shapes".loss_weight = weight
      return select(2, own:loss(models, x, { rng = core.rng(1) })).shapes
    end
    local plain = loss_of(nil)
    assert.is_true(math.abs(loss_of(function() return 2 end) / plain - 2) < 1e-5)
    assert.is_true(math.abs(loss_of(schedule.weight.uniform()) / plain - 1) < 1e-5)
    assert.is_true(math.abs(loss_of(schedule.weight.edm()) / plain - 1) < 1e-4) -- uniform for "edm"
    local limited = loss_of(schedule.weight.min_snr { gamma = 0.1 }) -- at most 0.1 of x0's error
    assert.is_true(limited > 0 and limited < plain)
  end)

  it("means may have a path of their own", function()
    local own = hierarchy.new { split = H.split_fn, join = H.join_fn, shape = { 3, 8, 8 }, levels = {
      { name = "shapes", mean_bypass = true }, { name = "colours" }, { name = "textures" } } }:fit_stats(set)
    local models = random_models(own)
    own:loss(models, x, { rng = core.rng(1) }):backward()
    for name, p in models:named_parameters() do
      -- a bias that all positions share is the mean's, which the path gives instead
      local most = p:grad():abs():amax():item()
      if name == "shapes.net.conv_out.bias" then assert.near(0, most, 1e-6) else assert.is_true(most > 0, name) end
    end
    assert.are.equal("2,3,8,8", shape_of(own:sample(models, 2, { steps = 2 })))
  end)

  it("networks are made and trained a level at a time, with groups for optimizers", function()
    local models = H:models { width = 8, levels = { "colours" } }
    assert.is_nil(models.shapes)
    local _, parts = H:loss(models, x)
    assert.are.same({ "colours" }, { (next(parts)) })
    assert.matches("there is no network for 'shapes'", message(H.sample, H, models, 1))
    local all = H:models { width = 8 }
    local groups = all:param_groups { textures = { lr = 5e-4 } }
    local opt = optim.AdamW(groups, { lr = 1e-3 })
    assert.are.same({ 1e-3, 1e-3, 5e-4 }, { opt.groups[1].lr, opt.groups[2].lr, opt.groups[3].lr })
    assert.are.equal(#all:parameters(), #groups[1].params + #groups[2].params + #groups[3].params)
    assert.matches("there is no network 'texture'. did you mean 'textures'",
      message(all.param_groups, all, { texture = {} }))
    all.colours:load_state_dict(models.colours:state_dict()) -- a checkpoint of its own
    assert.are.equal(3, select(2, H:sample(all, 1, { steps = 1, all = true })).colours:size(2))
  end)

  it("one level goes on where it was, by itself", function()
    -- a level's network, optimizer and average, in training or put back
    local function level(from)
      core.seed(4)
      local models = H:models { width = 8, levels = { "colours" } }
      local state = { models = models, opt = optim.AdamW(models:parameters(), { lr = 1e-3 }), ema = optim.EMA(models) }
      for key, part in next, from or {} do state[key]:load_state_dict(part) end
      return state
    end
    local function train(state, first, last)
      for i = first, last do
        local loss = H:loss(state.models, x:narrow(1, 8 * i - 7, 8), { rng = core.rng(i) })
        state.opt:zero_grad()
        loss:backward()
        state.opt:step()
        state.ema:update()
      end
      return state
    end
    local whole, half, saved = train(level(), 1, 6), train(level(), 1, 3), {}
    for key, part in next, half do saved[key] = part:state_dict() end
    local resumed = train(level(saved), 4, 6)
    for i, p in ipairs(whole.ema.model:parameters()) do
      assert.is_true(p:eq(resumed.ema.model:parameters()[i]):all():item())
    end
    assert.is_false(whole.models.colours.conv_in.weight:eq(half.models.colours.conv_in.weight):all():item())
  end)

  it("uncertainty is learned: it finds the error, level by level", function()
    local own = hierarchy.new { split = H.split_fn, join = H.join_fn, shape = { 3, 8, 8 },
      levels = { { name = "shapes", predict = "x0" }, { name = "colours", predict = "x0" },
        { name = "textures", predict = "x0" } } }
    own:set_stats { shapes = { std = 10 } } -- networks that give 0 err by the variance of the data, here a own one
    local nets = own:models { uncertainty = true, net = function() return function(z) return z * 0 end end }
    assert.are.equal(0, nets.uncertainty.shapes[2].bias:item())
    local opt = optim.AdamW(nets:param_groups(), { lr = 3e-2 })
    local parts
    for _ = 1, 100 do
      local loss
      loss, parts = own:loss(nets, x)
      opt:zero_grad() loss:backward() opt:step()
    end
    local told = nets:uncertainty_of(own:level "shapes", core.full({ 1 }, -200)):exp():item()
    assert.is_true(math.abs(math.log(told / parts.shapes)) < 0.3, ("%g for an error of %g"):format(told, parts.shapes))
  end)
end)

describe("files", function()
  local path = os.tmpname() .. ".safetensors"
  after_each(function() os.remove(path) end)

  it("hold what is needed to draw again: declaration, statistics, networks", function()
    for _, regime in ipairs { "cascade", "joint", "flat" } do
      local H = hierarchy.images { size = 6, regime = regime, wavelet = "db2" }
        :fit_stats(data.shapes { size = 6, n = 8 })
      local models = random_models(H, { regime = regime, classes = 2 })
      assert.is_true(H:save(path, models))
      local again, loaded = hierarchy.load(path)
      assert.are.equal(regime, loaded.regime)
      assert.is_true(again:sample(loaded, 2, { steps = 2 }):equal(H:sample(models, 2, { steps = 2 })))
    end
    local meta = select(2, require "hd.file".load(path))
    assert.matches('"name":"shapes"', meta.levels, 1, true)
  end)

  it("find own hierarchies by their name", function()
    local function halves(opts)
      return hierarchy.new { shape = { 1, opts.length },
        levels = { { name = "a", steps = opts.steps }, { name = "b" } },
        split = function(z) return { a = z:narrow(3, 1, opts.length // 2), b = z:narrow(3, opts.length // 2 + 1,
          opts.length // 2) } end,
        join = function(z) return core.op.cat({ z.a, z.b }, 3) end }
    end
    local make = hierarchy.register("halves", halves)
    local H = make { length = 8, steps = 3 }
    local models = H:models { width = 8, share = true }
    assert.is_true(H:save(path, models))
    local again, loaded = hierarchy.load(path)
    assert.are.equal(3, again:level "a".steps)
    assert.is_true(again:sample(loaded, 1):equal(H:sample(models, 1)))
    local plain = halves { length = 8, steps = 3 }
    assert.matches("declared by no registered function", message(plain.save, plain, path, models))
    local odd = make { length = 8, steps = 3, odd = print }
    assert.matches("option.odd cannot be saved: got a function", message(odd.save, odd, path, models))
    local own = H:models { net = function() return function(z) return z end end }
    assert.matches("own function cannot be declared again", message(H.save, H, path, own))
  end)

  it("that are others, or of unknown hierarchies, are told", function()
    assert.matches("cannot open", select(2, hierarchy.load "/nowhere/a.safetensors"))
    local file = require "hd.file"
    assert(file.save(path, { x = core.ones(1) }))
    assert.matches("holds no hierarchy: its format is 'none'", select(2, hierarchy.load(path)))
    assert(file.save(path, { x = core.ones(1) }, { metadata = { format = "hdlua hierarchy 1", hierarchy = "imagse",
      options = "{}", models = "{}" } }))
    assert.matches("holds the hierarchy 'imagse', which is not registered. did you mean 'images'",
      select(2, hierarchy.load(path)))
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
