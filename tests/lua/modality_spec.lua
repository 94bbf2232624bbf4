-- tests/lua/modality_spec.lua: hierarchies of other things than pictures, declared as a user would: frequency bands of
-- sound, and sentences, phrases and words of text as sets of positions whose tokens are masked. Both are trained.

local core = require "hd.core"
local hierarchy = require "hd.hierarchy"
local optim = require "hd.optim"
local haar = hierarchy.haar

-- Plucked tones [n, 1, 256]: a fundamental with four overtones, dying away.
local function tones(n)
  local u, rows = core.rand({ n, 7 }, { rng = core.rng(11), dtype = "f64" }):totable(), {}
  for i = 1, n do
    local row, frequency, decay = {}, 3 + 20 * u[i][1], 40 + 100 * u[i][2]
    for t = 0, 255 do
      local v = 0
      for k = 1, 5 do v = v + math.sin(2 * math.pi * (k * frequency * t / 256 + u[i][2 + k])) / k end
      row[t + 1] = v * math.exp(-t / decay)
    end
    rows[i] = { row }
  end
  return core.tensor(rows)
end

-- Octaves: 32, 32, 64 and 128 numbers of 256.
local function bands(opts)
  local o = {
    name = "bands", shape = { 1, 256 },
    levels = { { name = "low" }, { name = "middle" }, { name = "high" }, { name = "air" } },
    split = function(x)
      local low, details = haar.split(x, 3)
      return { low = low, middle = details[1], high = details[2], air = details[3] }
    end,
    join = function(z) return haar.join(z.low, { z.middle, z.high, z.air }) end,
  }
  for key, value in next, opts or {} do o[key] = value end
  return hierarchy.new(o)
end

local VOCAB, LENGTH = 20, 12
local SETS = { sentence = { 1, 7 }, phrase = { 2, 5, 8, 11 }, word = { 3, 4, 6, 9, 10, 12 } }

-- Texts [n, 12] of two sentences: a topic, heads of phrases that depend on it, words that depend on the head.
local function texts(n)
  local u, rows = core.randint(1, 5, { n, 4 }, { rng = core.rng(12) }):totable(), {}
  for i = 1, n do
    local topic = u[i][1]
    local row = { [1] = topic, [7] = topic }
    for k, p in ipairs(SETS.phrase) do row[p] = 6 + (topic + u[i][k // 2 + 2]) % 5 end
    for _, p in ipairs(SETS.word) do row[p] = 11 + (row[SETS.phrase[(p + 2) // 3]] + p) % 10 end
    rows[i] = row
  end
  return core.tensor(rows, { dtype = "i64" })
end

local function text(opts)
  local split, join = hierarchy.partition(SETS)
  local o = { name = "text", shape = { LENGTH }, split = split, join = join, levels = {
    { name = "sentence", kind = "mask", vocab = VOCAB }, { name = "phrase", kind = "mask", vocab = VOCAB },
    { name = "word", kind = "mask", vocab = VOCAB } } }
  for key, value in next, opts or {} do o[key] = value end
  return hierarchy.new(o)
end

-- Train for 50 steps. The first ten and the last ten steps see the same ten batches with the same noise, so that their
-- mean losses can be compared; gives { level = last / first }, and "total".
local function train(H, models, data)
  local opt = optim.AdamW(models:parameters(), { lr = 4e-3 })
  local size, sums = 16, { {}, {} }
  for step = 1, 50 do
    local k = step > 40 and step - 40 or step
    local batch = data:narrow(1, 1 + k * size % (data:size(1) - size), size)
    local loss, parts = H:loss(models, batch, { rng = core.rng(5, k) })
    opt:zero_grad()
    loss:backward()
    opt:step()
    parts.total = loss:item()
    local sum = step <= 10 and sums[1] or step > 40 and sums[2] or {}
    for name, value in next, parts do sum[name] = (sum[name] or 0) + value end
  end
  local ratio = {}
  for name, value in next, sums[1] do ratio[name] = sums[2][name] / value end
  return ratio
end

local function assert_learns(H, models, data)
  local ratio, count = train(H, models, data), 0
  for name, r in next, ratio do
    count = count + 1
    assert.is_true(r <= 0.9, ("%s: the loss became %.3f of what it was"):format(name, r))
  end
  return count
end

-- Weights after three steps, and samples, on so many threads.
local function trained_on(threads, H, options, data)
  local before = core.threads()
  core.threads(threads)
  core.seed(1)
  local models = H:models(options)
  local opt = optim.AdamW(models:parameters(), { lr = 4e-3 })
  for _ = 1, 3 do
    local loss = H:loss(models, data)
    opt:zero_grad()
    loss:backward()
    opt:step()
  end
  local out = table.move(models:parameters(), 1, #models:parameters(), 1, {})
  out[#out + 1] = H:sample(models, 3, { steps = 3 })
  core.threads(before)
  return out
end

local function assert_same_on_any_threads(H, options, data)
  local expected = trained_on(1, H, options, data)
  for _, threads in ipairs { 2, 3, 8 } do
    for i, x in ipairs(trained_on(threads, H, options, data)) do assert.is_true(x:equal(expected[i])) end
  end
end

local function shape_of(x) return table.concat(x:shape(), ",") end

before_each(function() core.seed(1) end)

describe("bands of sound", function()
  local data = tones(64)

  it("are split and joined", function()
    local H = bands()
    assert.is_true(H:check(data) <= 1e-6)
    assert.is_true(H:check(data:narrow(1, 1, 1)) <= 1e-6)
    assert.are.equal("64,1,32", shape_of(H:split(data).low))
    assert.are.equal("64,1,128", shape_of(H:split(data).air))
  end)

  for _, share in ipairs { false, true } do
    it(share and "learn in a network that they share" or "learn, each in its network", function()
      local H = bands():fit_stats(data)
      local models = H:models { width = 16, share = share }
      assert.are.equal(5, assert_learns(H, models, data))
      local x, levels = H:sample(models, 3, { steps = 4, all = true })
      assert.are.equal("3,1,256", shape_of(x))
      local energy, sum = x:norm():item(), 0
      assert.is_true(energy > 0 and energy < 20 * data:narrow(1, 1, 3):norm():item())
      for _, name in ipairs(H:level_names()) do sum = levels[name] + sum end
      assert.is_true((sum - x):norm():item() <= 1e-5 * energy)
    end)
  end

  it("have the same bits on any number of threads", function()
    assert_same_on_any_threads(bands():fit_stats(data), { width = 32 }, data)
  end)

  it("learn flat", function()
    local H = bands { regime = "flat" }:fit_stats(data)
    local models = H:models { width = 16 }
    assert.are.equal(2, assert_learns(H, models, data)) -- "flat" and the total
    assert.are.equal("2,1,256", shape_of(H:sample(models, 2, { steps = 3 })))
  end)
end)

describe("sentences, phrases and words", function()
  local data = texts(64)

  it("are split and joined exactly", function()
    local H = text()
    assert.are.equal(0.0, H:check(data))
    assert.are.equal(0.0, H:check(data:narrow(1, 1, 1)))
    assert.are.same({ data:get(1, 2), data:get(1, 5), data:get(1, 8), data:get(1, 11) },
      H:split(data).phrase:narrow(1, 1, 1):reshape(-1):totable())
    local bytes = core.randint(0, 255, { 5, LENGTH }, { dtype = "u8", rng = core.rng(2) })
    assert.are.equal(0.0, H:check(bytes))
    assert.are.equal("u8", H:join(H:split(bytes)):dtype())
  end)

  for _, share in ipairs { false, true } do
    it(share and "learn in a transformer that they share" or "learn, each in its transformer", function()
      local H = text()
      local models = H:models { width = 32, share = share }
      assert.are.equal(4, assert_learns(H, models, data))
      local order = {}
      local x, levels = H:sample(models, 4, { steps = 5, all = true, on_level = function(name)
        table.insert(order, name)
      end })
      assert.are.same({ "sentence", "phrase", "word" }, order)
      assert.are.equal("4," .. LENGTH, shape_of(x))
      assert.are.equal("i64", x:dtype())
      assert.is_true(x:amin():item() >= 1 and x:amax():item() <= VOCAB)
      local other = H:split(levels.phrase) -- a level alone: all others masked
      assert.is_true(other.phrase:equal(H:split(x).phrase))
      assert.are.equal(VOCAB + 1, other.word:amin():item())
    end)
  end

  it("have the same bits on any number of threads", function()
    assert_same_on_any_threads(text(), { width = 64 }, data)
  end)

  it("the loss is ln(vocab) where masks could be anything, 0 where they are known", function()
    local known = core.arange(1, VOCAB, { dtype = "f32" }):le(1):to "f32" * 50 -- token 1
    local function with(logits) -- of a net that gives these for masks and knows all other tokens
      local H = text()
      local models = H:models { net = function() return function(tokens)
        return core.op.where(tokens:gt(VOCAB):unsqueeze(3), logits, known)
      end end }
      local ones = core.ones({ 400, LENGTH }, { dtype = "i64" })
      return select(2, H:loss(models, ones, { rng = core.rng(3) }))
    end
    local parts = with(core.zeros(VOCAB))
    -- its standard deviation: ln 20 times sqrt(mean(1 / t) - 1) = 1.9 over the root of 400 x tokens
    for _, name in ipairs { "sentence", "phrase", "word" } do
      assert.is_true(math.abs(parts[name] - math.log(VOCAB)) < 4 * 5.7 / math.sqrt(400 * #SETS[name]), parts[name])
    end
    assert.is_true(with(known).word < 1e-6)
  end)

  it("masks are lifted evenly, once each, as the logits say", function()
    local H, steps, n = text(), {}, 500
    local probabilities = core.arange(1, VOCAB, { dtype = "f32" })
    local function logits() return probabilities:log():expand(n, 2, VOCAB) end
    local x = H:sample(nil, n, { steps = 5, batch = n, stop_after = "sentence", denoise = { sentence = logits },
      on_step = function(step) steps[step.i] = step end })
    for i, step in ipairs(steps) do
      local masked, after = step.x:gt(VOCAB), step.denoised:gt(VOCAB)
      assert.is_true(math.abs(after:to "f32":mean():item() - (1 - i / 5)) < 0.08)
      assert.is_true(core.op.where(masked, step.denoised, step.x):equal(step.denoised)) -- drawn ones stay
    end
    local drawn = H:split(x).sentence:to "f32"
    local mean = (2 * VOCAB + 1) / 3 -- of 1 to V with chances that rise with the number
    assert.is_true(math.abs(drawn:mean():item() - mean) < 5 * 4.7 / math.sqrt(2 * n))
  end)

  it("stopping leaves the finer positions masked; held ones stay", function()
    local H = text()
    local models = H:models { width = 32 }
    local x = H:sample(models, 2, { steps = 3, stop_after = "phrase" })
    assert.are.equal(VOCAB + 1, H:split(x).word:amin():item())
    assert.is_true(H:split(x).phrase:amax():item() <= VOCAB)
    local held = H:split(data:narrow(1, 1, 2)).phrase
    assert.is_true(H:split(H:sample(models, 2, { steps = 3, hold = { phrase = held } })).phrase:equal(held))
  end)

  it("a sample does not depend on its batch; a stand-in sees all levels and their shares of masks", function()
    local H = text()
    local seen
    local function logits(z, shares, levels)
      seen = seen or { shares = shares, levels = levels }
      return core.zeros { z:size(1), z:size(2), VOCAB }
    end
    local o = { steps = 4, seed = 3, denoise = { sentence = logits, phrase = logits, word = logits } }
    local all = H:sample(nil, 16, o)
    assert.are.same({ sentence = 1, phrase = 1, word = 1 }, seen.shares)
    assert.are.equal("16,4", shape_of(seen.levels.phrase))
    for _, n in ipairs { 1, 3 } do assert.is_true(H:sample(nil, n, o):equal(all:narrow(1, 1, n))) end
    o.batch = 5
    assert.is_true(H:sample(nil, 16, o):equal(all))
    o.seed = 4
    assert.is_false(H:sample(nil, 16, o):equal(all))
  end)

  it("have no statistics, and no flat regime", function()
    local function message(...) return select(2, pcall(...)) end
    local H = text():fit_stats(data)
    assert.are.same({}, H:stats_dict())
    assert.matches("level 'word' is of kind mask", message(H.set_stats, H, { word = { std = 2 } }))
    assert.matches("for levels of kind gaussian", message(H.models, H, { regime = "flat" }))
  end)
end)

describe("partition", function()
  local function message(sets) return select(2, pcall(hierarchy.partition, sets)) end

  it("wants each position in one set", function()
    assert.matches("position 2 is in 'a' and in 'b'", message { a = { 1, 2 }, b = { 2, 3 } })
    assert.matches("position 3 is missing", message { a = { 1, 2 }, b = { 4, 5 } })
    assert.matches("position 1 is missing", message { a = { 0, 2 }, b = { 3 } })
  end)

  it("wants sequences of its length", function()
    local split = hierarchy.partition { a = { 1, 3 }, b = { 2 } }
    assert.matches("got %[2,4%], expected %[n,3%]", select(2, pcall(split, core.zeros(2, 4))))
  end)
end)
