-- hd/tool/augment.lua: `hdlua -m augment`, pictures of every class from a trained model, as a data set of PNG files.
--
--     hdlua -m augment --model runs/digits --per-class 500 --guidance 1.3 --out drawn
--     hdlua -m augment --model runs/digits --per-class 100 --hold shapes --data folder:DIR --out textures
--
-- OUT/CLASS/NNNNN.png, CLASS the number of the class: hd.data.folder(OUT) reads them with the model's labels. Each file
-- carries as its comment, and OUT/manifest.jsonl as a line, where it came from: the model's SHA-256, seed, number,
-- guidance, steps, regime, which levels were drawn and which taken from a real picture, and from which. What the
-- manifest lists is kept, so the same command goes on where an interrupted one ended, and a larger --per-class adds.

local hd = require "hd"
local words_of = require "hd.tool.words"
local writer = require "hd.tool.augment.writer"

local args = hd.args({
  model = "", per_class = 100, out = "augmented", guidance = hd.args.number, steps = hd.args.integer, hold = "",
  data = hd.args.string,
}, {
  "Write pictures of every class, drawn by a model, as PNG files with their provenance.",
  model = "a model that knows classes: model.safetensors, or the folder of its run",
  per_class = "pictures of each class", out = "the folder that is written",
  guidance = "how much more the class counts (1: not at all)", steps = "sampling steps of each level (its own)",
  hold = "levels that are taken from real pictures of the class, comma-separated",
  data = "these real pictures: shapes, cifar10:DIR, folder:DIR or idx:IMAGES,LABELS; give those trained with alone",
})

local function fail(message)
  io.stderr:write("augment: ", message, "\n")
  os.exit(1, true)
end

if args.model == "" then fail "--model is missing: a model that examples/augment.lua has trained, say" end
if args.per_class < 1 then fail(("--per-class is wrong: got %d, expected at least 1"):format(args.per_class)) end
if args.steps and args.steps < 1 then fail(("--steps is wrong: got %d, expected at least 1"):format(args.steps)) end
if args.data and args.hold == "" then fail "--data is for --hold" end

local model, message = writer.open(args.model)
if not model then fail(message) end
local hold, real = words_of(args.hold), nil
if args.data then
  real, message = hd.data.open(args.data, { size = model.H.shape[2], kind = "pictures" })
  if not real then fail(message) end
end

io.stdout:setvbuf "line"
local drawn
drawn, message = writer.write(model, {
  out = args.out, per_class = args.per_class, seed = args.seed, guidance = args.guidance, steps = args.steps,
  hold = hold, real = real, on_batch = function(n, total) print(("%d of %d pictures"):format(n, total)) end,
})
if not drawn then fail(message) end
print(("wrote %d pictures of %d classes into %s"):format(drawn, model.models.classes, args.out))
