-- examples/train_images.lua: train a three-level hierarchy of pictures and draw with it.
--
--     hdlua examples/train_images.lua --data emoji --minutes 5 --out runs/emoji
--
-- Pictures are split into shapes (low-pass luma), colours (chroma) and textures (details). Each level is diffused by a
-- network of its own that sees the coarser ones; with --regime flat one network diffuses whole pictures instead, with
-- joint, staggered or free the levels are diffused together, each network seeing all of them.
-- OUT holds samples.png, samples.npy, model.safetensors (draw more with examples/sample_images.lua), loss.png,
-- samples_STEP.png from each minute, log.jsonl and the checkpoint from which --resume goes on.

local hd = require "hd"

local args = hd.args({
  data = "emoji", size = 32, minutes = 5.0, steps = hd.args.integer, stop_at = hd.args.integer,
  regime = { "cascade", "flat", "joint", "staggered", "free" }, share = false, batch = 32, width = 32,
  lr = 4e-3,
  out = "runs/images", samples = 64, resume = false, save_every = 30.0,
  on_nan = { "stop", "skip", "rollback" },
}, {
  "Train a hierarchy of pictures and draw with it.",
  data = "emoji, shapes, cifar:DIR or folder:DIR", size = "pixels of a side",
  minutes = "train so long", steps = "train so many steps instead of --minutes",
  stop_at = "end after this step, on the same schedule",
  regime = "diffuse level after level, whole pictures, or all levels together",
  share = "one network for all levels", batch = "pictures in a step", width = "channels of the networks",
  lr = "highest learning rate", out = "the folder for everything that is written",
  samples = "pictures to draw at the end", resume = "go on from the last checkpoint in OUT",
  save_every = "seconds between checkpoints, 0: every step",
  on_nan = "where loss or gradients are not finite: stop, skip the step, or go back to the last checkpoint",
})

-- Data: u8 pictures in memory --------------------------------------------------------------------------------------

local function open_data(kind, dir)
  if kind == "cifar" then return hd.data.cifar10(dir) end
  if kind == "folder" then return hd.data.folder(dir, { size = args.size }) end
  if kind == "shapes" then return hd.data.shapes { size = args.size } end
  if kind ~= "emoji" then return nil, "--data is wrong: expected emoji, shapes, cifar:DIR or folder:DIR" end
  local set, message = hd.data.emoji { size = args.size }
  if not set then print(message .. "\ntraining on drawn shapes instead") end
  return set or hd.data.shapes { size = args.size }
end

local data = assert(open_data(args.data:match "^(%a*):?(.*)$"))
assert(data.x:size(3) == args.size, ("the pictures are %d pixels high: use --size"):format(data.x:size(3)))
print(data)

local batches = data:batches { size = args.batch, seed = args.seed, flip = true }
local first = data:batches { size = args.batch, seed = args.seed }() -- leaves `batches` at its beginning

-- Hierarchy, networks, optimizer -----------------------------------------------------------------------------------

local H = hd.hierarchy.images { size = args.size, regime = args.regime }
H:check(data)
H:fit_stats(data)
print(H)

local models = H:models { width = args.width, share = args.share }
local params = models:parameters()
local opt = hd.optim.AdamW(params, { lr = args.lr })
local ema = hd.optim.EMA(models, { decay = 0.995 })

local function train(x)
  local loss, parts = H:loss(models, x)
  opt:zero_grad()
  loss:backward()
  hd.optim.clip_grad_norm_(params, 1)
  opt:step()
  ema:update()
  return loss, parts
end

-- The run: folder, log, checkpoints, preview -----------------------------------------------------------------------

local run <close> = assert(hd.run.new {
  out = args.out, settings = args, resume = args.resume, save_every = args.save_every, levels = H:level_names(),
  on_nan = args.on_nan,
  state = { models = models, opt = opt, ema = ema, statistics = H },
})

-- The same seed each time, so that one sees the same pictures grow. Draws nothing from the default generator.
local function draw(n, steps)
  return H:sample(ema.model, n, { seed = args.seed, steps = steps, all = true, on_step = run:watch() })
end

run:preview(first, H:pictures(first))

local steps = args.steps or run:plan(args.minutes, function() train(first) end)
local rate = hd.optim.lr.cosine(opt, { steps = steps, warmup = math.min(100, steps // 10), final = 0.02 })
run.state.rate = rate

for _, x in run:steps(batches, steps, { stop_at = args.stop_at }) do
  local loss, parts = train(x)
  run:log { loss = loss, levels = parts }
  rate:step()
  if run:due("samples", 60) then
    run:show(draw(16))
  elseif run:window() and run:due("preview", 7) then
    run:preview(draw(9, 6))
  end
end

-- Results ----------------------------------------------------------------------------------------------------------

assert(H:save(args.out .. "/model.safetensors", ema.model))

if args.samples > 0 then
  run:say(("drawing %d pictures"):format(args.samples))
  local x, levels = draw(args.samples)
  run:preview(x, levels)
  local drift = H:drift(x)
  for _, name in ipairs(H:level_names()) do
    run:say(("%s: mean off by %.2f standard deviations, %.2f of the real energy"):format(name, drift[name].mean,
      drift[name].energy))
  end
  x = x:clamp(-1, 1)
  assert(hd.save(args.out .. "/samples.npy", x))
  local shown = math.min(64, args.samples)
  assert(hd.image.save(args.out .. "/samples.png", hd.image.grid(x:narrow(1, 1, shown), { columns = 8 })))
  run:say(("wrote %s/samples.png"):format(args.out))
end
