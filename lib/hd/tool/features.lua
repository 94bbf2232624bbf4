-- hd/tool/features.lua: `hdlua -m features`, train the small classifier in whose features hd.metrics measures.
--
--     hdlua -m features --data cifar10:DIR --flip --out features/cifar10.safetensors
--     hdlua -m features --data emoji                        without labels: to know single pictures again
--
-- The file holds the network and, as metadata, the set, the version of the method and the accuracy on pictures that
-- were not trained with; its name, hdfd-SET-vN, belongs to every figure. hd.metrics.features(path) reads it.

local hd = require "hd"

local args = hd.args({
  data = "emoji", size = 32, name = hd.args.string, steps = 1500, batch = 64, lr = 2e-3, width = 16, flip = false,
  out = hd.args.string,
}, {
  "Train the features of hd.metrics on a set of pictures.",
  data = "emoji, shapes, cifar10:DIR, folder:DIR or idx:IMAGES,LABELS", size = "pixels of a side",
  name = "of the set, in the name of the features", steps = "training steps", batch = "pictures in a step",
  lr = "highest learning rate", width = "channels of the first layer, a multiple of 8; there are 6 width features",
  flip = "mirror half of the pictures of a labelled set", out = "the file, .safetensors (hdfd-SET-vN.safetensors)",
})

local function fail(message)
  io.stderr:write("features: ", message, "\n")
  os.exit(1, true)
end

local set, message = hd.data.open(args.data, { size = args.size, kind = "pictures" })
if not set then fail(message) end
print(set)

local function watch(at)
  if at.step % 100 == 0 or at.step == args.steps then
    print(("step %d of %d  loss %.4f"):format(at.step, args.steps, at.loss))
  end
end

io.stdout:setvbuf "line"
local features = hd.metrics.train_features(set, {
  name = args.name, steps = args.steps, batch = args.batch, lr = args.lr, width = args.width, seed = args.seed,
  flip = args.flip, on_step = watch,
})
local path = args.out or features.name .. ".safetensors"
local done
done, message = features:save(path)
if not done then fail(message) end
print(features)
print("wrote " .. path)
