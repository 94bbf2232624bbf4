-- hd/tool/compare.lua: `hdlua -m compare`, does the hierarchy pay? Flat diffusion beside hierarchies at equal cost.
--
--     hdlua -m compare --data emoji --minutes 6                                every regime, three seeds
--     hdlua -m compare --data cifar10:DIR --minutes 8 --arms flat,cascade --seeds 1
--     hdlua -m compare --data shapes --size 16 --steps 500 --width 16          as many FLOPs as 500 flat steps
--
-- All arms have as many parameters as the flat one (within 2 %: the widths of the levels' networks are searched), the
-- same budget of training (--minutes of wall clock, --tflop, or the FLOPs of --steps flat steps), as many FLOPs for
-- each sample, and everything that is no hierarchy: the prediction, AdamW with warm-up and cosine, EMA, statistics of
-- the data, gradients clipped to 1, Heun's sampler. With the first seed the same figures are taken on the way (1/4, 1/2
-- of the budget) and with fewer and more sampling steps, for the curves. Figures are those of hd.metrics, in the
-- features of --features, or of a classifier trained first and kept in OUT. Each finished cell, an arm with a seed, is
-- appended to OUT/NAME.tsv at once: the same command goes on where an interrupted one ended. OUT/NAME.md holds the
-- tables, OUT/NAME-*.png curves and pictures.

local hd = require "hd"
local core = require "hd.core"
local arms = require "hd.tool.compare.arms"
local cell = require "hd.tool.compare.cell"
local report = require "hd.tool.compare.report"
local about = require "hd.tool.study.about"
local options_of = require "hd.tool.study.options"
local Store = require "hd.tool.study.store"

local REGIMES = {}
for _, regime in ipairs { "flat", "cascade", "joint", "staggered" } do
  for _, known in ipairs(hd.hierarchy.Hierarchy.regimes) do
    if known == regime then REGIMES[#REGIMES + 1] = regime end
  end
end

local args = hd.args({
  data = "emoji", size = 32, name = hd.args.string, arms = table.concat(REGIMES, ","), seeds = 3,
  minutes = hd.args.number, tflop = hd.args.number, steps = hd.args.integer, batch = 32, width = 32, lr = 4e-3,
  predict = { "edm", "v" }, weight = { "uniform", "min_snr" }, ema = 0.995, flip = { "auto", "yes", "no" },
  by_class = false, guidance = hd.args.number, samples = 2000, sample_steps = 18, points = 3, resamples = 10,
  features = hd.args.string, feature_steps = 1500, out = "docs/results",
}, {
  "Compare flat and hierarchical diffusion at equal cost.",
  data = "emoji, shapes, cifar10:DIR, folder:DIR or idx:IMAGES,LABELS", size = "pixels of a side",
  name = "of the study, in the names of its files (the set's)", arms = "regimes, comma-separated",
  seeds = "how many, from --seed on", minutes = "budget: wall clock of each cell (6 unless told otherwise)",
  tflop = "budget: TFLOP of training instead", steps = "budget: the FLOPs of so many steps of the flat arm instead",
  batch = "pictures in a step", width = "of the flat arm's network; the others follow", lr = "highest learning rate",
  predict = "what all networks predict", weight = "how much each noise level counts, of what they predict",
  ema = "decay of the averaged weights", flip = "mirror half of the pictures; auto: not those of idx",
  by_class = "all networks are told the labels, and as many pictures of each class are drawn",
  guidance = "of drawing by class", samples = "pictures drawn for each figure, 500 at least",
  sample_steps = "Heun steps of the flat arm",
  points = "at how many shares of the budget the first seed is measured: 1, 1/2, 1/4 ...; 1: no curves",
  resamples = "random halves behind each interval", features = "file of `hdlua -m features`",
  feature_steps = "training steps of the features where none are given", out = "folder of the results",
})

-- Options ---------------------------------------------------------------------------------------------------------

local options = options_of("compare", args)
local fail, say = options.fail, options.say

local function check_args()
  args.arms = options.choices("arms", REGIMES)
  local budgets = (args.minutes and 1 or 0) + (args.tflop and 1 or 0) + (args.steps and 1 or 0)
  if budgets > 1 then fail "--minutes, --tflop and --steps are three ways to say one thing: give one of them" end
  if budgets == 0 then args.minutes = 6.0 end
  options.at_least { seeds = 1, batch = 1, sample_steps = 1, points = 1, feature_steps = 1, resamples = 2,
    samples = hd.metrics.least }
  if args.guidance and not args.by_class then fail "--guidance is for drawing --by-class" end
  if (args.minutes or args.tflop or args.steps) <= 0 then fail "the budget is wrong: expected more than 0" end
end

-- What a finished cell depends on: another value makes another study.
local function settings_text(features, set)
  local words = { ("pictures=%d"):format(#set), about.settings(args, { "data", "size", "minutes", "tflop", "steps",
    "batch", "width", "lr", "predict", "weight", "ema", "flip", "by_class", "guidance", "samples", "sample_steps",
    "points", "resamples" }) }
  if args.minutes then words[#words + 1] = "threads=" .. hd.threads() end -- wall clock buys more with more
  words[#words + 1] = ("features=%s/%d/%.4f"):format(features.name, features.steps, features.accuracy)
  return (table.concat(words, " "):gsub("%s", " "))
end

-- Data, features, arms --------------------------------------------------------------------------------------------

local function get_features(set, name)
  if args.features then
    local features, message = hd.metrics.features(args.features)
    return features or fail("%s", message)
  end
  local path = ("%s/features-%s-%d.safetensors"):format(args.out, name, set.x:size(3))
  local features = core.path_kind(path) and hd.metrics.features(path)
  if features and features.steps == args.feature_steps then return features end
  say("training features on %s, %d steps", name, args.feature_steps)
  features = hd.metrics.train_features(set, { name = name, steps = args.feature_steps })
  local done, message = features:save(path)
  return done and features or fail("%s", message)
end

-- As many real pictures as are drawn, or all where there are fewer.
local function some_real(set)
  local n = math.min(#set, args.samples)
  return set:subset(table.move(core.permutation(#set, 0), 1, n, 1, {})).x:to "f32" * (1 / 127.5) - 1
end

local ARM = "%-10s %9d parameters (%+.1f %%), %.2f GFLOP a step, %d sampling steps: %d calls, %.2f GFLOP a picture"

-- The arms with equal parameters and costs.
local function make_arms(H, set, classes)
  local x, labels = set:batches { size = args.batch, seed = 0, prefetch = 0 }()
  local by_class = classes and { labels = 1, guidance = args.guidance } or nil
  local flat = { name = "flat", regime = "flat", options = arms.options(H, "flat", args.width, nil, classes) }
  local list = { flat }
  for _, regime in ipairs(args.arms) do
    if regime ~= "flat" then list[#list + 1] = { name = regime, regime = regime } end
  end
  for _, arm in ipairs(list) do
    arm.options = arm.options or arms.options(H, arm.regime, args.width, flat.parameters, classes)
    local models = H:models(arm.options)
    arm.parameters = models:num_parameters()
    arm.step_flops = arms.step_flops(H, models, x, classes and labels)
    arm.sampling = arms.sampling(H, models, by_class)
    arm.sample_steps = arm == flat and args.sample_steps or arm.sampling.steps(flat.sampling.flops(args.sample_steps))
    local budget = args.tflop and args.tflop * 1e12 or (args.steps or 0) * flat.step_flops
    arm.steps = math.max(1, math.floor(budget / arm.step_flops + 0.5))
    local miss = 100 * (arm.parameters / flat.parameters - 1)
    say(ARM, arm.name, arm.parameters, miss, arm.step_flops * 1e-9, arm.sample_steps,
      arm.sampling.calls(arm.sample_steps), arm.sampling.flops(arm.sample_steps) * 1e-9)
    if math.abs(miss) > 2 then
      fail("no widths of the levels' networks come within 2 %% of %d parameters: use another --width", flat.parameters)
    end
  end
  for _, regime in ipairs(args.arms) do
    if regime == "flat" then return list end
  end
  return table.move(list, 2, #list, 1, {})
end

-- The study -------------------------------------------------------------------------------------------------------

local function save_pictures(stem, arm, seed, made)
  if seed ~= args.seed then return end
  local shown = made:narrow(1, 1, math.min(64, made:size(1))):expand(-1, 3, -1, -1)
  assert(hd.image.save(("%s-%s.png"):format(stem, arm), hd.image.grid(shown, { columns = 16 })))
end

-- Tables, curves and pictures of what is there.
local function write_report(store, list, stem, name, features)
  local names, pictures = {}, {}
  for i, arm in ipairs(list) do
    names[i] = arm.name
    local path = ("%s-%s.png"):format(stem, arm.name)
    if core.path_kind(path) then pictures[#pictures + 1] = path:match "[^/]+$" end
  end
  local page = report.page(store, {
    title = name .. ": flat and hierarchical diffusion at equal cost", command = about.command "compare",
    machine = about.machine(), features = tostring(features), arms = names, pictures = pictures,
    curves = report.curves(store, stem, name, names),
  })
  assert(core.file_write(stem .. ".md", page))
end

-- The set, its name, how many classes it has where pictures are drawn by class, and its hierarchy.
local function open_data()
  local set, message = hd.data.open(args.data, { size = args.size, kind = "pictures" })
  if not set then fail("%s", message) end
  if #set < hd.metrics.least then fail("%s: expected at least %d pictures", tostring(set), hd.metrics.least) end
  if args.by_class and not set.labels then fail("--by-class needs labels: %s has none", tostring(set)) end
  local classes = args.by_class and math.tointeger(set.labels:amax():item()) or nil
  local H
  H, message = arms.hierarchy(set, { predict = args.predict, weight = args.weight })
  if not H then fail("%s", message) end
  local name = set.name:gsub("%s.*$", ""):gsub("[^%w_-]", "")
  return set, args.name or name, classes, H
end

-- What all cells share.
local function make_study(H, set, features, classes)
  local real = some_real(set)
  return {
    H = H, set = set, features = features, real = real, of_real = features(real), batch = args.batch, lr = args.lr,
    ema = args.ema, minutes = args.minutes, samples = args.samples, points = args.points, first_seed = args.seed,
    resamples = args.resamples, say = say,
    classes = classes, guidance = args.guidance,
    flip = args.flip == "yes" or (args.flip == "auto" and args.data:sub(1, 4) ~= "idx:"),
  }
end

local function run()
  check_args()
  local set, name, classes, H = open_data()
  assert(core.folder_make(args.out))
  local features, stem = get_features(set, name), args.out .. "/" .. name
  local store = Store(stem .. ".tsv", settings_text(features, set), cell.columns)
  local list, study = make_arms(H, set, classes), make_study(H, set, features, classes)
  local halves = not store:has("real", 0) and cell.real(study)
  if halves then assert(store:append { halves }) end
  for seed = args.seed, args.seed + args.seeds - 1 do
    for _, arm in ipairs(list) do
      if store:has(arm.name, seed) then
        say("%s, seed %d: measured before", arm.name, seed)
      else
        local records, made = cell.run(study, arm, seed)
        assert(store:append(records))
        save_pictures(stem, arm.name, seed, made)
        write_report(store, list, stem, name, features)
      end
    end
  end
  write_report(store, list, stem, name, features)
  say("wrote %s.md", stem)
end

run()
