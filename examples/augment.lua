-- examples/augment.lua: do drawn pictures help a classifier that has few real ones?
--
--     hdlua examples/augment.lua --n 20 --minutes 5 --out runs/augment
--     hdlua examples/augment.lua --data idx:IMAGES,LABELS --n 20 --minutes 5 --out runs/digits
--
-- A hierarchy that is told the classes learns from n real pictures of each and draws more of them, which are written as
-- PNG files with their provenance (as by `hdlua -m augment`). Then the same small classifier learns four times, for
-- each of several seeds: from the real pictures, with standard augmentation, with the drawn ones, and with both; all
-- other pictures of the set say how good it is. Differences are taken seed by seed, with 95 % intervals over the seeds:
-- they tell about these n pictures and this generator, not about others.
-- OUT holds the generator's run, OUT/drawn the pictures; --resume goes on with an interrupted call.

local hd = require "hd"
local classifier = require "hd.tool.augment.classifier"
local generator = require "hd.tool.augment.generator"
local writer = require "hd.tool.augment.writer"
local interval = require "hd.metrics.interval"

local args = hd.args({
  data = "shapes", size = 16, n = 20, minutes = 2.0, steps = hd.args.integer, width = 32, per_class = 100,
  guidance = hd.args.number, draw_steps = hd.args.integer, share = 0.4, seeds = 5, classifier_steps = 300,
  flip = false, out = "runs/augment", resume = false,
}, {
  "Train a classifier on few real pictures, with and without drawn ones.",
  data = "shapes, cifar10:DIR, folder:DIR or idx:IMAGES,LABELS", size = "pixels of a side, where the set has none",
  n = "real pictures of each class", minutes = "train the generator so long",
  steps = "train it so many steps instead", width = "channels of its networks",
  per_class = "pictures drawn of each class", guidance = "how much more the class counts in drawing (1: not at all)",
  draw_steps = "sampling steps of each level (its own)", share = "of the drawn pictures in each batch",
  seeds = "of the classifier, at least 2", classifier_steps = "training steps of each classifier",
  flip = "mirrored pictures are of the same class", out = "the folder for everything that is written",
  resume = "go on with what is in OUT",
})
assert(args.seeds >= 2, "--seeds is wrong: intervals need at least 2")
assert(args.share > 0 and args.share < 1, "--share is wrong: expected more than 0 and less than 1")

-- Few real pictures, and all others to ask about -------------------------------------------------------------------

local set = assert(hd.data.open(args.data, { size = args.size, kind = "pictures" }))
assert(set.labels, tostring(set) .. ": there are no labels")
local real, rest = set:per_class(args.n, args.seed)
assert(rest, "all pictures are learnt from, none are left to ask about: use a smaller --n")
print(("%s: %d to learn from, %d to ask about"):format(set.name, #real, #rest))

-- A generator, and what it draws -----------------------------------------------------------------------------------

local augment = {} -- hd.data.augment's own turns, moves and scales
generator.train(real, { out = args.out, minutes = args.minutes, steps = args.steps, seed = args.seed,
  width = args.width, batch = 32, lr = 4e-3, flip = args.flip, augment = augment, resume = args.resume })

local folder, model = args.out .. "/drawn", assert(writer.open(args.out))
assert(writer.write(model, { out = folder, per_class = args.per_class, seed = args.seed, guidance = args.guidance,
  steps = args.draw_steps, hold = {} }))
local made = assert(hd.data.folder(folder, { size = real.x:size(3), channels = real.x:size(2) }))

-- Four classifiers for each seed -----------------------------------------------------------------------------------

local accuracy = {}
for _, arm in ipairs(classifier.arms) do accuracy[arm.name] = {} end
for seed = 1, args.seeds do
  for _, arm in ipairs(classifier.arms) do
    accuracy[arm.name][seed] = classifier.measure(arm, { real = real, made = made, asked = rest }, {
      classes = model.models.classes, steps = args.classifier_steps, batch = 64, lr = 3e-3, seed = seed,
      share = args.share, augment = augment, flip = args.flip })
    print(("seed %d, %s: %.2f %% right"):format(seed, arm.name, 100 * accuracy[arm.name][seed]))
  end
end

for _, pair in ipairs { { "standard", "real" }, { "synthetic", "real" }, { "both", "standard" } } do
  local differences = {}
  for seed = 1, args.seeds do differences[seed] = 100 * (accuracy[pair[1]][seed] - accuracy[pair[2]][seed]) end
  local found = interval.of_mean(differences)
  print(("%s - %s: %+.2f points, 95 %% interval %+.2f to %+.2f"):format(pair[1], pair[2], found.mean, found.low,
    found.high))
end
