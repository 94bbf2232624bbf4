-- hd/tool/compare_text.lua: `hdlua -m compare_text`, masked diffusion of text: flat, masks lifted anywhere, beside the
-- order sentences, phrases, words, after the same minutes.
--
--     hdlua -m compare_text --data book.txt --minutes 15
--     hdlua -m compare_text --data phrases.txt --unit word --minutes 5 --arms levels --seeds 1
--
-- Both arms have the same transformer (that of the levels is also told the level), batches, optimizer and minutes. The
-- figure is the bound on the bits for each character of the end of the text, which is not trained on, at 1/4, 1/2 and
-- the whole of the budget (on the way of --on-the-way windows). Each finished cell, an arm with a seed, is appended to
-- OUT/text-NAME.tsv at once: the same command goes on where an interrupted one ended. OUT/text-NAME.md holds the table,
-- the curve and, of the first seed, texts and an infilling.

local hd = require "hd"
local core = require "hd.core"
local about = require "hd.tool.study.about"
local options_of = require "hd.tool.study.options"
local Store = require "hd.tool.study.store"
local trainer = require "hd.tool.study.trainer"

local ARMS = { "flat", "levels" }
local COLUMNS = {
  "arm", "seed", "point", "share", "parameters", "steps", "minutes", "bits", "bits_low", "bits_high", "sentence",
  "phrase", "word", "windows", "times", "settings",
  texts = { arm = true, point = true, settings = true }, places = { "seed", "share" },
}

local args = hd.args({
  data = "poems", unit = { "char", "word" }, symbols = 8192, length = 128, held_out = 0.1, name = hd.args.string,
  arms = "flat,levels", seeds = 1, minutes = 15.0, steps = hd.args.integer, batch = 32, width = 256, depth = 4,
  lr = 2e-3, ema = 0.995, rate = { "linear", "cosine" }, points = 3, times = 64, windows = hd.args.integer,
  on_the_way = 64, draw_steps = 64, samples = 3, out = "docs/results",
}, {
  "Compare flat and level-ordered masked diffusion of text.",
  data = "a text file (UTF-8), or poems", unit = "tokens are characters or words",
  symbols = "the most symbols of the vocabulary", length = "tokens of a window",
  held_out = "share of the text, at its end, that is not trained on", name = "of the study (the file's)",
  arms = "comma-separated: flat, levels", seeds = "how many, from --seed on", minutes = "wall clock of each cell",
  steps = "train so many steps instead", batch = "windows in a step", width = "channels of the network",
  depth = "blocks of the network", lr = "highest learning rate", ema = "decay of the averaged weights",
  rate = "how the share of masks falls with time", points = "at how many shares of the budget: 1, 1/2, 1/4 ...",
  times = "times at which each window is measured", windows = "measure so many windows held out (all)",
  on_the_way = "windows measured before the end", draw_steps = "steps in which each level's masks are lifted",
  samples = "texts that the page shows", out = "folder of the results",
})

local options = options_of("compare_text", args)
local fail, say = options.fail, options.say

-- The study -----------------------------------------------------------------------------------------------------------

local function open_data()
  local set, message = hd.data.text(args.data ~= "poems" and args.data or nil,
    { length = args.length, unit = args.unit, size = args.symbols })
  if not set then fail("%s", message) end
  local name = args.name or set.name:gsub("%.[^.]*$", ""):gsub("[^%w_-]", "")
  return name, set:split(1 - args.held_out)
end

local function make_arm(name, set)
  local H = hd.hierarchy.text { vocabulary = set.vocabulary, length = args.length, levels = name == "flat" and 1 or 3,
    rate = args.rate, steps = args.draw_steps }
  H:check(set)
  return { name = name, H = H, steps = args.steps,
    options = { width = args.width, depth = args.depth, share = name == "levels" } }
end

-- Train an arm and measure; gives the points, the one at the end last, and the averaged networks.
local function run_cell(study, arm, seed, held_out)
  local state, records = trainer.new(study, arm, seed), {}
  for _, share in ipairs(trainer.shares(args.points)) do
    while state.share() < share do state.step() end
    local windows = share < 1 and args.on_the_way or args.windows
    local bits, interval, parts = hd.metrics.bits_per_character(arm.H, state.ema.model, held_out,
      { times = args.times, windows = windows, resamples = 20 })
    records[#records + 1] = { arm = arm.name, seed = seed, point = share < 1 and "train" or "end", share = share,
      parameters = state.models:num_parameters(), steps = state.steps, minutes = state.seconds / 60, bits = bits,
      bits_low = interval and interval.low, bits_high = interval and interval.high, sentence = parts.sentence,
      phrase = parts.phrase, word = parts.word, times = args.times,
      windows = math.min(windows or #held_out, #held_out) }
    say("%s, seed %d: %.3g of the budget, %d steps, %.2f min: %.3f bits per character", arm.name, seed, share,
      state.steps, state.seconds / 60, bits)
  end
  return records, state.ema.model
end

-- The page ------------------------------------------------------------------------------------------------------------

-- Texts of an arm, by lines, and one whose middle third was to be written.
local function write_texts(path, arm, models, held_out)
  local sampler, parts = hd.hierarchy.unmask { cached = true }, {}
  local function draw(n, opts)
    opts.seed, opts.sampler = args.seed, sampler
    return held_out.vocabulary:decode((arm.H:sample(models, n, opts)))
  end
  for i, s in ipairs(draw(args.samples, {})) do parts[i] = s end
  local mask = hd.ones { 1, args.length }
  mask:narrow(2, args.length // 3 + 1, args.length // 3):fill_(0)
  local x = held_out.x:narrow(1, 1, 1)
  parts[#parts + 1] = "(given) " .. held_out.vocabulary:decode(x * mask:to "i64")[1]
  parts[#parts + 1] = "(infilled) " .. draw(1, { inpaint = { x = x, mask = mask } })[1]
  assert(core.file_write(path, table.concat(parts, "\n\n----\n\n") .. "\n"))
end

local function number(v, form) return v and form:format(v) or "–" end

local function row_of(r)
  return ("| %s | %d | %d | %d | %.2f | %.3f [%s, %s] | %s | %s | %s | %d |"):format(r.arm, r.seed, r.parameters,
    r.steps, r.minutes, r.bits, number(r.bits_low, "%.3f"), number(r.bits_high, "%.3f"), number(r.sentence, "%.3f"),
    number(r.phrase, "%.3f"), number(r.word, "%.3f"), r.windows)
end

local function curve(store, stem, name)
  local series = {}
  for _, arm in ipairs(ARMS) do
    local x, y = {}, {}
    for _, r in ipairs(store:points(arm)) do
      if r.seed == args.seed then x[#x + 1], y[#y + 1] = r.minutes, r.bits end
    end
    if #x > 1 then series[#series + 1] = { name = arm, x = x, y = y } end
  end
  if #series == 0 then return nil end
  assert(hd.image.save(stem .. "-minutes.png", hd.plot.lines(series, { title = name, x_label = "minutes of training",
    y_label = "bits per character" })))
  return stem:match "[^/]+$" .. "-minutes.png"
end

local function write_page(store, stem, name)
  local lines = {
    "<!-- written by hdlua -m compare_text from the .tsv beside it -->",
    ("# %s: masked diffusion of text, flat and by levels"):format(name), "",
    ("Command: `%s`  "):format(about.command "compare_text"), ("Machine: %s"):format(about.machine()), "",
    ("Bound on the bits for each character of the last %g %% of the text, which were not trained on, by %d times for "
      .. "every window; in brackets its 95 %% interval by windows. The levels' bounds add up to that of the text.")
      :format(100 * args.held_out, args.times), "",
    "| arm | seed | parameters | steps | minutes | bits per character | sentence | phrase | word | windows |",
    "|" .. (" --- |"):rep(10),
  }
  for _, arm in ipairs(ARMS) do
    for _, r in ipairs(store:points(arm)) do lines[#lines + 1] = row_of(r) end
  end
  local file = curve(store, stem, name)
  if file then lines[#lines + 1] = ("\n![%s](%s)"):format(file, file) end
  for _, arm in ipairs(ARMS) do
    local texts <close> = io.open(("%s-%s.txt"):format(stem, arm))
    if texts then lines[#lines + 1] = ("\n## Texts, %s\n\n```\n%s```"):format(arm, texts:read "a") end
  end
  assert(core.file_write(stem .. ".md", table.concat(lines, "\n") .. "\n"))
end

local function settings_text(set, held_out)
  local words = { ("characters=%d/%d"):format(set.characters, held_out.characters), about.settings(args, { "data",
    "unit", "symbols", "length", "held_out", "minutes", "steps", "batch", "width", "depth", "lr", "ema", "rate",
    "times", "windows" }) }
  if not args.steps then words[#words + 1] = "threads=" .. hd.threads() end
  return table.concat(words, " ")
end

local function run()
  options.at_least { seeds = 1, batch = 1, points = 1, times = 1, on_the_way = 1, draw_steps = 1, samples = 1 }
  if (args.steps or args.minutes) <= 0 then fail "the budget is wrong: expected more than 0" end
  local _, wanted = options.choices("arms", ARMS)
  local name, set, held_out = open_data()
  assert(core.folder_make(args.out))
  local stem = args.out .. "/text-" .. name
  local store = Store(stem .. ".tsv", settings_text(set, held_out), COLUMNS)
  local study = { set = set, batch = args.batch, lr = args.lr, ema = args.ema,
    minutes = not args.steps and args.minutes }
  for seed = args.seed, args.seed + args.seeds - 1 do
    for _, arm_name in ipairs(ARMS) do
      if wanted[arm_name] and store:has(arm_name, seed) then
        say("%s, seed %d: measured before", arm_name, seed)
      elseif wanted[arm_name] then
        local arm = make_arm(arm_name, set)
        local records, models = run_cell(study, arm, seed, held_out)
        assert(store:append(records))
        if seed == args.seed then write_texts(("%s-%s.txt"):format(stem, arm_name), arm, models, held_out) end
        write_page(store, stem, name)
      end
    end
  end
  write_page(store, stem, name)
  say("wrote %s.md", stem)
end

run()
