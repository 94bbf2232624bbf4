-- Texts: files and vocabularies, windows of tokens, the hierarchy of sentences, phrases and words, samplers of tokens,
-- the bound, and examples/train_text.lua in its short form.

local core = require "hd.core"
local hd = require "hd"
local sandbox = require "tests.lua.sandbox"

local root = io.popen("pwd"):read "l"
local path, read, write = sandbox.path, sandbox.read, sandbox.write

local function message(...) return select(2, pcall(...)) end

before_each(function() sandbox.open {} end)
after_each(sandbox.close)

describe("hd.text.load", function()
  it("drops the byte order mark and makes line ends one character", function()
    assert.are.equal("a\nb\nc\n", hd.text.load(write("a", "\xEF\xBB\xBFa\r\nb\rc\n")))
  end)

  it("gives nil and a message for what is no text", function()
    local function trouble(s)
      local x, why = hd.text.load(write("a", s))
      assert.is_nil(x)
      return why
    end
    assert.matches("is no UTF%-8: got byte 0xFF at 3", trouble "ab\xFFc")
    assert.matches("is no UTF%-8: got byte 0xC0 at 1", trouble "\xC0\x80")
    assert.matches("is empty", trouble "")
    assert.matches("is empty", trouble "\xEF\xBB\xBF")
    assert.matches("No such file", select(2, hd.text.load(path "none")))
    assert.matches("text.load: ", select(2, hd.text.load(path "")))
  end)
end)

describe("any bytes", function()
  it("are a text that comes back from its tokens, or refused with a message", function()
    local pieces = { "a", "Z", "9", " ", "  ", "\n", "\r\n", "\0", "'", "|", ".", "é", "\u{FFFD}", "\u{10FFFF}",
      "\u{FEFF}", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xC3", "\x80", "\xFF" }
    local rng, texts, refused = core.rng(7), 0, 0
    for _ = 1, 400 do
      local list = {}
      for i, k in ipairs(core.randint(1, #pieces, { 8 }, { rng = rng }):totable()) do
        -- the last five are no UTF-8: seldom, so that many texts are whole
        list[i] = pieces[k > #pieces - 5 and i > 1 and 1 or k]
      end
      local s, why = hd.text.load(write("a", table.concat(list)))
      if s then
        texts = texts + 1
        for _, unit in ipairs { "char", "word" } do
          local v = hd.text.Vocabulary(s, { unit = unit })
          assert.are.equal(s, v:decode(v:encode(s)))
        end
      else
        refused = refused + 1
        assert.matches("is no UTF%-8: got byte 0x%x%x at %d", why)
      end
    end
    assert.is_true(texts > 100 and refused > 50, ("%d texts, %d refused"):format(texts, refused))
  end)
end)

describe("Vocabulary", function()
  local LINES = "To be, or not to be: that's the question.\nÜber allen Gipfeln ist Ruh’ …\n\n  spaces\t\n"

  it("decodes what it encodes, characters and words", function()
    for _, unit in ipairs { "char", "word" } do
      local v = hd.text.Vocabulary(LINES, { unit = unit })
      assert.are.equal(LINES, v:decode(v:encode(LINES)), unit)
      local again = hd.text.Vocabulary(core.json_decode(core.json_encode(v:state())))
      assert.are.same(v.symbols, again.symbols)
      assert.are.equal(LINES, again:decode(v:encode(LINES)))
    end
  end)

  it("numbers symbols by how often they occur; rare ones become one", function()
    local v = hd.text.Vocabulary("aaabbc", { size = 3 })
    assert.are.same({ "a", "b", "\u{FFFD}" }, v.symbols)
    assert.are.same({ 3, 2, 1 }, v.counts)
    assert.are.equal(3, #v)
    assert.are.same({ 1, 2, 3, 3 }, v:encode("abcd"):totable())
    assert.are.equal("ab\u{FFFD}_", v:decode { 1, 2, 3, 4 })
    assert.are.same({ "ab", "ba" }, v:decode(core.tensor({ { 1, 2 }, { 2, 1 } }, { dtype = "i64" })))
  end)

  it("takes the space before a word to the word", function()
    local v = hd.text.Vocabulary("the cat | saw the dog's", { unit = "word" })
    local seen = {}
    for i, id in ipairs(v:encode("the cat | saw the dog's"):totable()) do seen[i] = v.symbols[id] end
    assert.are.same({ "the", " cat", " |", " saw", " the", " dog's" }, seen)
  end)

  it("refuses what is no text or no state", function()
    assert.matches("the text is empty", message(hd.text.Vocabulary, ""))
    assert.matches("is no UTF%-8", message(hd.text.Vocabulary, "\xFF"))
    assert.matches("size is wrong: got 1", message(hd.text.Vocabulary, "ab", { size = 1 }))
    assert.matches("did you mean 'word'", message(hd.text.Vocabulary, "ab", { unit = "words" }))
    assert.matches("got 2 symbols and 1 counts", message(hd.text.Vocabulary,
      { unit = "char", symbols = { "a", "b" }, counts = { 1 } }))
    local v = hd.text.Vocabulary "ab"
    assert.matches("the text is empty", message(v.encode, v, ""))
    assert.matches("called on a wrong object", message(v.encode, "ab"))
  end)
end)

describe("hd.data.text", function()
  local function open(s, opts) return assert(hd.data.text(write("a.txt", s), opts)) end

  it("cuts a text into windows, one behind the other", function()
    local set = open("abcdefghij", { length = 4 })
    assert.are.equal(2, #set)
    assert.are.equal(10, set.characters)
    assert.are.equal("efgh", set.vocabulary:decode(set:get(2)))
    assert.are.equal("efgh", set.vocabulary:decode(set:get(-1)))
    assert.are.same({ 2, 4 }, set.x:shape())
  end)

  it("makes batches that begin elsewhere in each epoch, the same for a seed", function()
    local set = open(("0123456789"):rep(7), { length = 6 })
    local function texts(seed)
      local batches, list = set:batches { size = 3, seed = seed }, {}
      for i = 1, 8 do list[i] = table.concat(set.vocabulary:decode(batches()), " ") end
      return list
    end
    assert.are.same(texts(1), texts(1))
    assert.are_not.same(texts(1), texts(2))
    local starts = {}
    for _, s in ipairs(texts(1)) do
      for w in s:gmatch "%d+" do
        assert.matches(w, ("0123456789"):rep(2), 1, true)
        starts[w:sub(1, 1)] = true
      end
    end
    local count = 0
    for _ in pairs(starts) do count = count + 1 end
    assert.is_true(count > 5, "windows always begin at the same places")
  end)

  it("makes batches inside scopes", function()
    local batches = open(("abcde"):rep(9), { length = 5 }):batches { size = 2 }
    for _ = 1, 9 do
      local _ <close> = hd.scope()
      batches()
    end
  end)

  it("goes on where a state says", function()
    local set = open(("abcdefghijk"):rep(9), { length = 5 })
    local a, b = set:batches { size = 2, seed = 3 }, set:batches { size = 2, seed = 3 }
    for _ = 1, 13 do a() end
    b:load_state_dict(a:state_dict())
    for _ = 1, 13 do assert.is_true(a():equal(b())) end
    local other = set:batches { size = 3, seed = 3 }
    assert.matches("'size' differs: got 2, expected 3", message(other.load_state_dict, other, a:state_dict()))
  end)

  it("holds out the end, at a character", function()
    local a, b = open(("äbcde"):rep(8), { length = 4 }):split(0.5)
    assert.are.equal("äbcdeäbcdeäbcdeäbcde", a.text)
    assert.are.equal(20, b.characters)
    assert.are.equal(a.vocabulary, b.vocabulary)
  end)

  it("comes with some poems", function()
    local set = assert(hd.data.text(nil, { unit = "word", length = 32 }))
    assert.is_true(#set > 50)
    assert.matches("Shall I compare thee to a summer's day", set.vocabulary:decode(set:get(1)), 1, true)
  end)

  it("refuses texts that are too short, and wrong options", function()
    local file = write("a.txt", "one line")
    assert.matches("the text is too short: got 8 tokens, expected at least 128", message(hd.data.text, file))
    assert.matches("length is wrong: got 0", message(hd.data.text, file, { length = 0 }))
    assert.matches("'vocabulary' is wrong", message(hd.data.text, file, { vocabulary = {} }))
    assert.matches("size is wrong: got 3, expected 1 to 1", message(function()
      return open("abcdefgh", { length = 4 }):batches { size = 3 }
    end))
    assert.matches("fraction is wrong: got 1", message(function() open("abcdefgh", { length = 2 }):split(1) end))
    assert.matches("i is wrong: got 9, expected 1 to 2", message(function()
      return open("abcdefgh", { length = 4 }):get(9)
    end))
    assert.is_nil((hd.data.text(path "none")))
  end)

  it("takes a word that is longer than the window as one token", function()
    local set = open(("x"):rep(500) .. " and it is so", { length = 5, unit = "word" })
    assert.are.equal(1, #set)
    assert.are.equal(("x"):rep(500) .. " and it is so", set.vocabulary:decode(set:get(1)))
  end)
end)

-- What each level shows of a text, _ where it is blank.
local function shown(s, opts)
  local v = hd.text.Vocabulary(opts.corpus or s, { unit = opts.unit })
  local x = v:encode(s)
  local H = hd.hierarchy.text { vocabulary = v, length = x:numel(), levels = opts.levels }
  local z, out = H:split(x:view(1, x:numel())), {}
  for _, name in ipairs(H:level_names()) do out[name] = v:decode(z[name])[1] end
  return out
end

describe("hd.hierarchy.text", function()
  it("parts characters by what ends sentences and what parts words", function()
    assert.are.same({ sentence = "_______.____!", phrase = "__ _____ ____", word = "Go_home__Now_" },
      shown("Go home. Now!", { unit = "char" }))
    assert.are.same({ phrase = "__ ____. ___!", word = "Go_home__Now_" },
      shown("Go home. Now!", { unit = "char", levels = 2 }))
    assert.are.same({ word = "Go home. Now!" }, shown("Go home. Now!", { unit = "char", levels = 1 }))
  end)

  it("gives the rarest words to sentences and phrases; punctuation parts phrases", function()
    local corpus = ("the cat sat , on the mat . a dog is on the mat ."):rep(5) .. " the zebra"
    assert.are.same({ sentence = "_ zebra_____ .", phrase = "___ ,__ mat_", word = "the_ sat_ on the__" },
      shown("the zebra sat , on the mat .", { unit = "word", corpus = corpus .. " on" }))
  end)

  it("begins a phrase with a frequent word", function()
    local list = {}
    for i = 1, 900 do list[i] = ("w%d%s"):format(i, i % 20 == 0 and " the" or "") end
    assert.are.same({ sentence = "_ w1_____ .", phrase = "_____ w4__", word = "the_ w3 the w2_ w5_" },
      shown("the w1 w3 the w2 w4 w5 .", { unit = "word", corpus = "the w2 " .. table.concat(list, " ") .. " ." }))
  end)

  it("follows bars where the text has them", function()
    local s = "Bush | nominated | two individuals | ."
    assert.are.same({ sentence = "Bush______ .", phrase = "_ | nominated |_ individuals |_", word = "____ two___" },
      shown(s, { unit = "word", corpus = s .. (" two"):rep(9) }))
  end)

  it("is put together again, with one to three levels, on any tokens", function()
    for _, unit in ipairs { "char", "word" } do
      local set = assert(hd.data.text(nil, { unit = unit, length = 40 }))
      for levels = 1, 3 do
        local H = hd.hierarchy.text { vocabulary = set.vocabulary, length = 40, levels = levels }
        assert.are.equal(levels, #H.levels)
        assert.are.equal(0.0, H:check(set))
        assert.are.equal(0.0, H:check(core.randint(1, #set.vocabulary, { 8, 40 })))
      end
    end
  end)

  it("joins levels that contradict: the coarsest token counts, a mask is shown, nothing is unknown", function()
    local v = hd.text.Vocabulary "ab. ab."
    local H = hd.hierarchy.text { vocabulary = v, length = 4 }
    local a, blank = v:encode("a"):item(), #v + 1
    local function ids(...) return core.tensor({ { ... } }, { dtype = "i64" }) end
    local x = H:join { sentence = ids(a, blank, blank + 1, blank), phrase = ids(a + 1, a, blank, blank),
      word = ids(blank, a + 1, blank, blank) }
    assert.are.same({ { a, a, blank + 1, #v } }, x:totable())
  end)

  it("learns, bounds and writes; files bring it back", function()
    local set = assert(hd.data.text(write("a.txt", ("so it is. "):rep(60)), { length = 20 }))
    local H = hd.hierarchy.text { vocabulary = set.vocabulary, length = 20, steps = 10 }
    H:check(set)
    H:fit_stats(set)
    local models = H:models { width = 32, depth = 1, share = true }
    local opt, batches = hd.optim.AdamW(models:parameters(), { lr = 1e-2 }), set:batches { size = 8 }
    local before = hd.metrics.bits_per_character(H, models, set, { times = 16 })
    for _ = 1, 500 do
      local loss = H:loss(models, batches())
      opt:zero_grad()
      loss:backward()
      opt:step()
    end
    local after, interval, parts = hd.metrics.bits_per_character(H, models, set, { times = 16, resamples = 5 })
    assert.is_true(after < 1.2 and before > 5 * after, ("%g bits, before %g"):format(after, before))
    assert.is_true(interval.low < after and after < interval.high)
    assert.is_true(math.abs(parts.sentence + parts.phrase + parts.word - after) < 1e-9)
    local known, all = 0, 0
    for _, s in ipairs(set.vocabulary:decode((H:sample(models, 8, { seed = 2 })))) do
      for i = 1, #s - 2 do
        known, all = known + (set.text:find(s:sub(i, i + 2), 1, true) and 1 or 0), all + 1
      end
    end
    assert.is_true(known > 0.5 * all, ("%d of %d triples of characters are in the text"):format(known, all))
    assert(H:save(path "a.safetensors", models))
    local again, nets = hd.hierarchy.load(path "a.safetensors")
    assert.is_true(again:sample(nets, 3, { seed = 2 }):equal(H:sample(models, 3, { seed = 2 })))
    assert.are.equal("so", again.vocabulary:decode(again.vocabulary:encode "so"))
  end)

  it("refuses wrong declarations", function()
    local v = hd.text.Vocabulary "ab"
    local function made(opts) return message(hd.hierarchy.text, opts) end
    assert.matches("levels is wrong: got 4", made { vocabulary = v, levels = 4 })
    assert.matches("length is wrong: got 0", made { vocabulary = v, length = 0 })
    assert.matches("vocabulary", made {})
    assert.matches("x has the wrong shape: got %[2,5%], expected %[n,4%]", message(function()
      local H = hd.hierarchy.text { vocabulary = v, length = 4 }
      H:loss(H:models { width = 8, depth = 1 }, core.full({ 2, 5 }, 1, { dtype = "i64" }))
    end))
  end)
end)

-- One level whose network knows the distribution: position i is token 1 with chance p[i].
local function known_chances(p, rate)
  local H = hd.hierarchy.new {
    split = function(x) return { word = x } end, join = function(z) return z.word end, shape = { #p },
    levels = { { name = "word", kind = "mask", vocab = 2, rate = rate } },
  }
  local rows = {}
  for i, chance in ipairs(p) do rows[i] = { math.log(chance), math.log(1 - chance) } end
  local logits = core.tensor(rows):view { 1, #p, 2 }
  local net = setmetatable({}, { __call = function(_, z) return logits:expand(z:size(1), #p, 2):contiguous() end })
  local models = H:models { net = function() return net end }
  return H, models
end

describe("the bound", function()
  local P = { 0.5, 0.9, 0.2 }

  -- -ln p of independent positions, whose bound is sharp
  local function exact(row)
    local sum = 0
    for i, token in ipairs(row) do sum = sum - math.log(token == 1 and P[i] or 1 - P[i]) end
    return sum
  end

  for _, rate in ipairs { "linear", "cosine" } do
    it("is sharp where positions are independent, " .. rate, function()
      local H, models = known_chances(P, rate)
      local rows = { { 1, 1, 1 }, { 2, 2, 2 }, { 1, 2, 1 } }
      local many = {}
      for i = 1, 3 * 64 do many[i] = rows[(i - 1) % 3 + 1] end
      local nats = H:bound(models, core.tensor(many, { dtype = "i64" }), { times = 400, rng = core.rng(1) })
      local got = nats:view(64, 3):mean(1):totable()
      for i, row in ipairs(rows) do
        assert.is_true(math.abs(got[i] - exact(row)) < 0.05 * exact(row), ("%g, exact %g"):format(got[i], exact(row)))
      end
    end)
  end

  it("is for levels of tokens, and for regimes with clocks", function()
    local H = known_chances(P, "linear")
    local models = H:models { net = function() return function() end end, regime = "free" }
    local x = core.full({ 1, 3 }, 1, { dtype = "i64" })
    assert.matches("the regime is wrong: got 'free'", message(H.bound, H, models, x))
    local images = hd.hierarchy.images { size = 8 }
    assert.matches("level 'shapes' is of kind gaussian", message(images.bound, images, images:models { width = 8 },
      core.zeros { 1, 3, 8, 8 }))
    local other = H:models { net = function() return function() end end }
    assert.matches("times is wrong: got 0", message(H.bound, H, other, x, { times = 0 }))
    local set = assert(hd.data.text(nil))
    assert.matches("set is wrong", message(hd.metrics.bits_per_character, H, other, x))
    assert.matches("windows is wrong", message(hd.metrics.bits_per_character, H, other, set, { windows = 0 }))
  end)
end)

describe("samplers of tokens", function()
  local P = { 0.5, 0.9, 0.2 }

  for _, opts in ipairs { { order = "chance" }, { order = "confidence" }, { order = "chance", cached = true } } do
    for _, rate in ipairs { "linear", "cosine" } do
      it(("draw the distribution: %s, %s%s"):format(opts.order, rate, opts.cached and ", cached" or ""), function()
        local H, models = known_chances(P, rate)
        local x = H:sample(models, 2000, { seed = 1, steps = 6, batch = 500, sampler = hd.hierarchy.unmask(opts) })
        assert.are.equal(0, x:gt(2):sum():item())
        for i, share in ipairs(x:eq(1):to("f64"):mean(1):totable()) do
          assert.is_true(math.abs(share - P[i]) < 0.04, ("position %d: %g, expected %g"):format(i, share, P[i]))
        end
      end)
    end
  end

  it("lift the surest first, and take the likeliest at temperature 0", function()
    local H, models = known_chances(P, "linear")
    local seen = {}
    local sampler = hd.hierarchy.unmask { order = "confidence", temperature = 0 }
    local x = H:sample(models, 1, { seed = 1, steps = 3, sampler = sampler,
      on_step = function(s) seen[s.i] = s.denoised:totable()[1] end })
    assert.are.same({ { 3, 1, 3 }, { 3, 1, 2 } }, { seen[1], seen[2] })
    assert.are.same({ 1, 2 }, { x:get(1, 2), x:get(1, 3) })
  end)

  it("keep what is known", function()
    local set = assert(hd.data.text(nil, { length = 30 }))
    local H = hd.hierarchy.text { vocabulary = set.vocabulary, length = 30, steps = 5 }
    local models = H:models { width = 16, depth = 1, share = true }
    local x, mask = set.x:narrow(1, 1, 2), core.ones { 1, 30 }
    mask:narrow(2, 11, 10):fill_(0)
    local y = H:sample(models, 2, { seed = 1, inpaint = { x = x, mask = mask } })
    assert.is_true(y:narrow(2, 1, 10):equal(x:narrow(2, 1, 10)) and y:narrow(2, 21, 10):equal(x:narrow(2, 21, 10)))
    assert.is_false(y:equal(x))
    assert.is_true(y:le(#set.vocabulary):all():item() ~= 0)
  end)

  it("ask a network less where nothing was lifted", function()
    local H, models = known_chances(P, "linear")
    local function calls(cached)
      local net, n = models:net "word", 0
      local counted = H:models { net = function()
        return setmetatable({}, { __call = function(_, ...)
          n = n + 1
          return net(...)
        end })
      end }
      H:sample(counted, 1, { seed = 1, steps = 50, sampler = hd.hierarchy.unmask { cached = cached } })
      return n
    end
    assert.are.equal(50, calls(false))
    assert.is_true(calls(true) <= 4)
  end)

  it("refuse wrong options", function()
    assert.matches("temperature is wrong: got %-1", message(hd.hierarchy.unmask, { temperature = -1 }))
    assert.matches("did you mean 'chance'", message(hd.hierarchy.unmask, { order = "chanc" }))
  end)
end)

describe("levels that share positions", function()
  local function declared(a, b)
    return message(hd.hierarchy.new, {
      split = function(x) return { a = x, b = x } end, join = function(z) return z.a end,
      levels = {
        { name = "a", kind = "mask", vocab = 3, blank = a }, { name = "b", kind = "mask", vocab = 3, blank = b },
      },
    })
  end

  it("agree on the blank", function()
    assert.matches("blank is wrong: got 4", declared(4, 4))
    assert.matches("level 'b' has a blank of its own: got nil, expected 3", declared(3, nil))
    assert.matches("level 'b' has a blank of its own: got 2, expected 3", declared(3, 2))
  end)
end)

describe("hdlua -m compare_text", function()
  local SMALL = " --steps 4 --width 16 --depth 1 --batch 4 --length 32 --times 2 --windows 8 --on-the-way 4 --samples 1"
    .. " --draw-steps 4 --threads 1 --out . "

  local function shell(rest) return sandbox.shell("$H -m compare_text" .. SMALL .. rest) end

  it("measures flat and by levels, and goes on where it ended", function()
    local out, code = shell "--arms flat"
    assert.are.equal(0, code, out)
    local before = read "text-poems.tsv"
    out, code = shell ""
    assert.are.equal(0, code, out)
    assert.matches("flat, seed 0: measured before", out, 1, true)
    assert.matches("levels, seed 0: 1 of the budget, 4 steps", out, 1, true)
    assert.are.equal(before, read "text-poems.tsv":sub(1, #before))
    local _, lines = read "text-poems.tsv":gsub("\n", "")
    assert.are.equal(7, lines) -- the head, and three points of each arm
    assert.matches("| levels | 0 | %d+ | 4 | 0.00 | %d+%.%d+ %[%d.+%d%]", read "text-poems.md")
    assert.matches("(infilled) ", read "text-poems.md", 1, true)
  end)

  it("refuses wrong options", function()
    assert.matches("--arms has the wrong value: got 'level'. did you mean 'levels'", (shell "--arms level"), 1, true)
    assert.matches("--times is wrong: got 0", (shell "--times 0"), 1, true)
    assert.matches("the budget is wrong", (shell "--steps 0"), 1, true)
  end)
end)

describe("train_text", function()
  local SMALL = " --steps 12 --length 32 --width 16 --depth 1 --batch 4 --draw_steps 6 --times 2 --windows 4"
    .. " --samples 1 --view off --threads 1 "

  local function shell(command)
    return sandbox.shell(("T='%s/examples/train_text.lua %s'\n%s"):format(root, SMALL, command))
  end

  it("trains on characters and words, in levels and flat, and writes its results", function()
    local out, code = shell "$H $T --out a && $H $T --out b --unit word --levels 1 --order confidence"
    assert.are.equal(0, code, out)
    assert.matches("step 12/12 .*sentence %d.*phrase %d.*word %d", out)
    for _, name in ipairs { "a/samples.txt", "a/infilled.txt", "b/samples.txt", "b/bound.txt" } do
      assert.is_true(#read(name) > 20, name)
    end
    assert.matches("bits per character %[.*%], sentence %d.*phrase %d.*word %d", read "a/bound.txt")
  end)

  it("stopped and resumed equals one that went through, bit for bit", function()
    local out, code = shell "$H $T --out a && $H $T --out b --stop-at 5 && $H $T --out b --resume"
    assert.are.equal(0, code, out)
    assert.matches("resuming 'b' at step 5", out, 1, true)
    assert.are.equal(read "a/model.safetensors", read "b/model.safetensors")
    assert.are.equal(read "a/bound.txt", read "b/bound.txt")
    assert.are.equal(read "a/samples.txt", read "b/samples.txt")
  end)

  it("says what is wrong with a file", function()
    write("bad.txt", "ab\xFF")
    write("short.txt", "one line")
    local out, code = shell "$H $T --data bad.txt"
    assert.are.equal(1, code)
    assert.matches("'bad.txt' is no UTF-8: got byte 0xFF at 3", out, 1, true)
    assert.matches("train_text.lua:%d+: data.text: the text is too short", (shell "$H $T --data short.txt"))
    assert.matches("none.txt: No such file", (shell "$H $T --data none.txt"), 1, true)
  end)
end)
