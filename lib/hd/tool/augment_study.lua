-- hd/tool/augment_study.lua: `hdlua -m augment_study`, do drawn pictures help a classifier that has few real ones?
--
--     hdlua -m augment_study --data idx:IMAGES,LABELS --name mnist --n 20,100 --draws 3 --seeds 10
--
-- For each n and each draw of n real pictures a class, a generator of its own learns from them and draws more; then the
-- same small classifier learns --seeds times from the real pictures, from these with standard augmentation, with drawn
-- ones, and with both, and is asked about all other pictures of the set. Each further setting (--settings) changes one
-- thing about the drawn pictures and measures the last of the four again. Differences are paired by draw and seed;
-- their 95 % intervals are over the draws, which alone are independent.
-- Each finished cell, one way to learn under one draw, is appended to OUT/augment-NAME.tsv at once, and generators and
-- pictures are kept in RUNS: the same command goes on where an interrupted one ended.

local hd = require "hd"
local core = require "hd.core"
local digest = require "hd.digest"
local about = require "hd.tool.study.about"
local options_of = require "hd.tool.study.options"
local Store = require "hd.tool.study.store"
local classifier = require "hd.tool.augment.classifier"
local generator = require "hd.tool.augment.generator"
local report = require "hd.tool.augment.report"
local words_of = require "hd.tool.words"
local writer = require "hd.tool.augment.writer"

-- What may be changed: options of writer.write, the share of the drawn pictures in a batch as a factor, whether only
-- those are kept that a classifier of the real pictures recognises, whether the generator has no levels.
local SETTINGS = {
  { name = "plain", note = "drawn as they come" },
  { name = "guided", guidance = 1.5, note = "guidance 1.5" },
  { name = "few", share = 0.5, note = "half the share of drawn pictures in each batch" },
  { name = "many", share = 1.5, note = "half as many drawn pictures again in each batch" },
  { name = "held", hold = { "shapes" }, note = "shapes taken from real pictures, textures drawn" },
  { name = "sure", sure = true, note = "only pictures that a classifier of the real ones recognises" },
  { name = "flat", regime = "flat", note = "a generator without levels" },
}

local COLUMNS = {
  "arm", "seed", "point", "n", "classifier", "accuracy", "drawn", "settings",
  texts = { arm = true, point = true, settings = true }, places = { "seed", "classifier" },
}

local args = hd.args({
  data = "shapes", size = 16, name = hd.args.string, n = "20,100", draws = 3, seeds = 10, settings = "plain",
  steps = 2000, width = 32, batch = 32, lr = 4e-3, per_class = 200, draw_steps = hd.args.integer, share = 0.4,
  classifier_steps = 600, flip = false, out = "docs/results", runs = "runs/augment_study",
}, {
  "Measure whether drawn pictures help a classifier that has few real ones.",
  data = "shapes, cifar10:DIR, folder:DIR or idx:IMAGES,LABELS", size = "pixels of a side, where the set has none",
  name = "of the study (the set's)", n = "real pictures of each class, comma-separated",
  draws = "of n pictures each with a generator of its own, at least 2", seeds = "of the classifier for each draw",
  settings = "comma-separated: plain, guided, few, many, held, sure, flat", steps = "of training of each generator",
  width = "channels of its networks", batch = "pictures in a step of it", lr = "its highest learning rate",
  per_class = "pictures drawn of each class", draw_steps = "sampling steps of each level (its own)",
  share = "of the drawn pictures in each batch of the classifier", classifier_steps = "training steps of each",
  flip = "mirrored pictures are of the same class", out = "folder of the results",
  runs = "folder of the generators and of what they draw",
})

local options = options_of("augment_study", args)
local fail, say = options.fail, options.say

local function read_settings()
  local names, by_name, list = {}, {}, {}
  for i, setting in ipairs(SETTINGS) do names[i], by_name[setting.name] = setting.name, setting end
  for i, name in ipairs(options.choices("settings", names)) do list[i] = by_name[name] end
  return list
end

local function read_counts(text)
  local list = {}
  for _, word in ipairs(words_of(text)) do
    local n = math.tointeger(word)
    if not n or n < 1 then fail("--n has the wrong value: got '%s', expected whole numbers, at least 1", word) end
    list[#list + 1] = n
  end
  if #list == 0 then fail "--n has no value" end
  return list
end

local function check_args()
  options.at_least { draws = 2, seeds = 1, steps = 1, width = 8, batch = 1, per_class = 1, classifier_steps = 1 }
  if not (args.share > 0 and 1.5 * args.share < 1) then
    fail("--share is wrong: got %g, expected more than 0 and less than 2/3", args.share)
  end
end

-- Pictures to learn from --------------------------------------------------------------------------------------------

local AUGMENT = {} -- hd.data.augment's own turns, moves and scales

-- The model of one draw, trained now or before; nil and a message.
local function open_model(folder, real, seed, regime)
  if not core.path_kind(folder .. "/model.safetensors") then
    say("%s: a generator learns from %d pictures", folder, #real)
    generator.train(real, { out = folder, steps = args.steps, seed = seed, width = args.width, batch = args.batch,
      lr = args.lr, flip = args.flip, augment = AUGMENT, regime = regime, resume = true })
  end
  return writer.open(folder)
end

-- The drawn pictures of a setting under one draw, drawn now or before.
local function open_made(setting, n, seed, real)
  local regime = setting.regime or "cascade"
  local key = digest.sha256(about.settings(args, { "data", "size", "steps", "width", "batch", "lr", "flip" }))
  local from = ("%s/%s-%d-%d-%s-%s"):format(args.runs, args.name, n, seed, regime, key:sub(1, 8))
  local model, message = open_model(from, real, seed, regime)
  if not model then fail("%s", message) end
  local out = ("%s/drawn-%d%s%s"):format(from, args.per_class, setting.guidance and "-guided" or "",
    setting.hold and "-held" or "")
  local drawn
  drawn, message = writer.write(model, { out = out, per_class = args.per_class, seed = seed, steps = args.draw_steps,
    guidance = setting.guidance, hold = setting.hold or {}, real = real })
  if not drawn then fail("%s", message) end
  return assert(hd.data.folder(out, { size = real.x:size(3), channels = real.x:size(2) }))
end

-- Those that a classifier of the real pictures recognises as what they are to be.
local function recognised(made, real, o)
  local net = classifier.train(real, nil, o)
  local answers, right = classifier.answers(net, made):totable(), {}
  for i, label in ipairs(made.labels:totable()) do
    if answers[i] == label then right[#right + 1] = i end
  end
  if #right == 0 then fail "no drawn picture is recognised: train the generator longer" end
  return made:subset(right)
end

-- The cells ---------------------------------------------------------------------------------------------------------

local function classifier_options(setting, seed)
  return { classes = args.classes, steps = args.classifier_steps, batch = 64, lr = 3e-3, seed = seed,
    share = args.share * (setting.share or 1), augment = AUGMENT, flip = args.flip }
end

-- All seeds of one way to learn under one draw.
local function run_cell(arm, setting, sets, n, draw, name)
  local records = {}
  for seed = 1, args.seeds do
    local accuracy = classifier.measure(arm, sets, classifier_options(setting, seed))
    records[seed] = { arm = name, seed = draw, point = seed < args.seeds and "seed" or "end", n = n, classifier = seed,
      accuracy = accuracy, drawn = arm.made and #sets.made or 0 }
  end
  local sum = 0
  for _, r in ipairs(records) do sum = sum + r.accuracy / #records end
  say("%s, draw %d: %.2f %% right", name, draw, 100 * sum)
  return records
end

-- What is measured under a setting: everything when it is the first, else the last way alone.
local function run_setting(store, set, n, draw, setting, whole)
  local real, rest = set:per_class(n, draw)
  if not rest then fail("all pictures are learnt from, none are left to ask about: use a smaller --n") end
  local sets = { real = real, asked = rest }
  for _, arm in ipairs(classifier.arms) do
    local name = report.arm_name(n, arm, setting)
    if (whole or arm.name == "both") and not store:has(name, draw) then
      if arm.made and not sets.made then
        sets.made = open_made(setting, n, draw, real)
        if setting.sure then sets.made = recognised(sets.made, real, classifier_options(setting, 0)) end
      end
      assert(store:append(run_cell(arm, setting, sets, n, draw, name)))
    end
  end
end

-- Pictures of the first draw: a line of those learnt from, and below it a line of each setting's, class by class.
local function write_pictures(path, set, n, settings)
  local real = set:per_class(n, 1)
  local function line(pictures)
    local taken, list = {}, {}
    for i, label in ipairs(pictures.labels:totable()) do
      taken[label] = (taken[label] or 0) + 1
      if taken[label] <= 2 then list[#list + 1] = { label, i } end
    end
    table.sort(list, function(a, b) return a[1] < b[1] or a[1] == b[1] and a[2] < b[2] end)
    for i, entry in ipairs(list) do list[i] = entry[2] end
    return pictures:subset(list).x
  end
  local lines = { line(real) }
  for _, setting in ipairs(settings) do
    lines[#lines + 1] = line(open_made(setting, n, 1, real))
  end
  assert(hd.image.save(path, hd.image.grid(hd.cat(lines, 1), { columns = lines[1]:size(1) })))
end

local function run()
  check_args()
  local counts, settings = read_counts(args.n), read_settings()
  local set, message = hd.data.open(args.data, { size = args.size })
  if not set then fail("%s", message) end
  if not set.labels then fail("%s: there are no labels", tostring(set)) end
  args.name, args.classes = args.name or set.name, math.tointeger(set.labels:amax():item())
  assert(core.folder_make(args.out))
  local stem = ("%s/augment-%s"):format(args.out, args.name)
  local store = Store(stem .. ".tsv", about.settings(args, { "data", "size", "seeds", "steps", "width", "batch", "lr",
    "per_class", "draw_steps", "share", "classifier_steps", "flip" }), COLUMNS)
  local page = { stem = stem, name = args.name, draws = args.draws, seeds = args.seeds, counts = counts,
    settings = settings, command = about.command "augment_study" }
  for i, setting in ipairs(settings) do
    for _, n in ipairs(counts) do
      for draw = 1, args.draws do
        run_setting(store, set, n, draw, setting, i == 1)
        report.write(store, page)
      end
    end
  end
  write_pictures(stem .. ".png", set, counts[1], settings)
  report.write(store, page)
  say("wrote %s.md", stem)
end

run()
