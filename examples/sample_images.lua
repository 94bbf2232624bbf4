-- examples/sample_images.lua: draw pictures with a model that examples/train_images.lua has trained.
--
--     hdlua examples/sample_images.lua --model runs/emoji/model.safetensors --n 64 --seed 1 --out more.png

local hd = require "hd"

local args = hd.args({ model = "runs/emoji/model.safetensors", n = 64, out = "samples.png", steps = hd.args.integer }, {
  "Draw pictures with a trained model.",
  model = "the file to draw with", n = "pictures to draw", out = "the picture to write, .png; or .npy",
  steps = "sampling steps of each level (18)",
})

-- Weights and statistics lie in one file; its metadata say what was declared.
local tensors, declared = hd.load(args.model)
assert(tensors, declared)
assert(declared.hierarchy == "images", ("'%s' holds no hierarchy of pictures"):format(args.model))
local weights, stats = {}, {}
for name, x in pairs(tensors) do -- order free: separate keys
  local statistic = name:match "^stats/(.*)$"
  if statistic then stats[statistic] = x else weights[name] = x end
end

local H = hd.hierarchy.images { size = tonumber(declared.size), regime = declared.regime }
H:load_stats_dict(stats)
local models = H:models { width = tonumber(declared.width), share = declared.share == "true" }
models:load_state_dict(weights)

local x = H:sample(models, args.n, { seed = args.seed, steps = args.steps }):clamp(-1, 1)
if args.out:find "%.npy$" then
  assert(hd.save(args.out, x))
else
  assert(hd.image.save(args.out, hd.image.grid(x)))
end
print(("wrote %d pictures to %s"):format(args.n, args.out))
