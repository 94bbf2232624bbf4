-- examples/sample_images.lua: draw pictures with a model that examples/train_images.lua has trained.
--
--     hdlua examples/sample_images.lua --model runs/emoji/model.safetensors --n 64 --seed 1 --out more.png

local hd = require "hd"

local args = hd.args({ model = "runs/emoji/model.safetensors", n = 64, out = "samples.png", steps = hd.args.integer }, {
  "Draw pictures with a trained model.",
  model = "the file to draw with", n = "pictures to draw", out = "the picture to write, .png; or .npy",
  steps = "sampling steps of each level (18)",
})

-- Declaration, statistics and weights lie in one file.
local H, models = hd.hierarchy.load(args.model)
assert(H, models)

local x = H:sample(models, args.n, { seed = args.seed, steps = args.steps }):clamp(-1, 1)
if args.out:find "%.npy$" then
  assert(hd.save(args.out, x))
else
  assert(hd.image.save(args.out, hd.image.grid(x)))
end
print(("wrote %d pictures to %s"):format(args.n, args.out))
