-- examples/train_audio.lua: train a hierarchy of sounds, frequency bands from low to high, and play with it.
--
--     hdlua examples/train_audio.lua --minutes 5 --out runs/sounds
--     hdlua examples/train_audio.lua --data wav:DIR --minutes 15 --out runs/digits
--
-- Sounds are split by a transform with as many numbers as samples (mdct, or packet: wavelet packets) into bands, each
-- standardised bin by bin to equal energy and diffused by a network of its own that hears the lower ones; --bands 1
-- diffuses all bins at once. Where the set has classes, networks are told them.
-- OUT holds samples/NN_CLASS.wav, samples.png (their spectrograms), real.png, bands.txt (energy of each band beside the
-- real one), model.safetensors, loss.png, log.jsonl and the checkpoint from which --resume goes on.

local hd = require "hd"
local core = require "hd.core"

local args = hd.args({
  data = "synth", rate = 8000, length = 8192, bands = 3, bins = 64, transform = { "mdct", "packet" },
  regime = { "cascade", "flat", "joint", "staggered", "free" }, minutes = 5.0, steps = hd.args.integer,
  stop_at = hd.args.integer, batch = 16, width = 64, depth = 1, lr = 2e-3, guidance = hd.args.number,
  draw_steps = 18, out = "runs/audio", samples = 32, resume = false, save_every = 30.0,
  on_nan = { "stop", "skip", "rollback" },
}, {
  "Train a hierarchy of sounds and draw with it.",
  data = "synth (plucked strings and drums), or wav:DIR: CLASS_SPEAKER_TAKE.wav or a folder for each class",
  rate = "frames per second", length = "frames of a clip", bands = "frequency bands, an octave each from above",
  bins = "frequencies of the transform", transform = "how clips become bins over time",
  regime = "diffuse band after band, the samples themselves, or all bands together", minutes = "train so long",
  steps = "train so many steps instead of --minutes", stop_at = "end after this step, on the same schedule",
  batch = "clips in a step", width = "channels of the networks", depth = "blocks of each of their levels",
  lr = "highest learning rate", guidance = "how much more the class counts in drawing (1: not at all)",
  draw_steps = "sampling steps of each band", out = "the folder for everything that is written",
  samples = "clips to draw at the end", resume = "go on from the last checkpoint in OUT",
  save_every = "seconds between checkpoints, 0: every step",
  on_nan = "where loss or gradients are not finite: stop, skip the step, or go back to the last checkpoint",
})

-- Data: clips in memory ---------------------------------------------------------------------------------------------

local data = assert(hd.data.open(args.data, { kind = "sounds", rate = args.rate, length = args.length }))
print(data)
local classes = data.labels and math.tointeger(data.labels:amax():item())
local batches = data:batches { size = args.batch, seed = args.seed }
local first, first_labels = data:batches { size = args.batch, seed = args.seed }() -- leaves `batches` at its beginning

-- Hierarchy, networks, optimizer ------------------------------------------------------------------------------------

local H = hd.hierarchy.audio { rate = args.rate, length = args.length, bands = args.bands, bins = args.bins,
  transform = args.transform, regime = args.regime }
H:check(data)
H:fit_stats(data)
print(H)

local models = H:models { width = args.width, depth = args.depth, classes = classes }
local params = models:parameters()
local opt = hd.optim.AdamW(params, { lr = args.lr })
local ema = hd.optim.EMA(models, { decay = 0.995 })

local function train(x, labels)
  local loss, parts = H:loss(models, x, { labels = labels })
  opt:zero_grad()
  loss:backward()
  hd.optim.clip_grad_norm_(params, 1)
  opt:step()
  ema:update()
  return loss, parts
end

-- The run -----------------------------------------------------------------------------------------------------------

local run <close> = assert(hd.run.new {
  out = args.out, settings = args, resume = args.resume, save_every = args.save_every, levels = H:level_names(),
  on_nan = args.on_nan,
  state = { models = models, opt = opt, ema = ema, statistics = H },
})

-- Clips, one class after the other; the same seed each time, so that one hears the same sounds grow.
local function draw(n, steps)
  local labels
  if classes then labels = hd.arange(0, n - 1) % classes + 1 end
  local x, bands = H:sample(ema.model, n, { seed = args.seed, labels = labels, guidance = args.guidance,
    steps = steps or args.draw_steps, all = true, on_step = run:watch() })
  return x:clamp(-1, 1), bands
end

-- What the eye sees of clips and of their bands: spectrograms.
local function pictures(x, bands)
  local seen = {}
  for name, z in next, bands or {} do seen[name] = hd.audio.picture(z) end -- order free: separate names
  return hd.audio.picture(x), seen
end

run:preview(pictures(first, H:pictures(first)))

local steps = args.steps or run:plan(args.minutes, function() train(first, first_labels) end)
local rate = hd.optim.lr.cosine(opt, { steps = steps, warmup = math.min(100, steps // 10), final = 0.02 })
run.state.rate = rate

for _, x, labels in run:steps(batches, steps, { stop_at = args.stop_at }) do
  local loss, parts = train(x, labels)
  run:log { loss = loss, levels = parts }
  rate:step()
  if run:due("samples", 60) then
    local clips, bands = draw(8, 10)
    run:show(pictures(clips, bands))
  end
end

-- Results -----------------------------------------------------------------------------------------------------------

assert(H:save(args.out .. "/model.safetensors", ema.model))

if args.samples > 0 then
  run:say(("drawing %d clips"):format(args.samples))
  local x, bands = draw(args.samples)
  run:preview(pictures(x, bands))
  assert(core.folder_make(args.out .. "/samples"))
  for i = 1, args.samples do
    local class = classes and "_" .. data.classes[(i - 1) % classes + 1] or ""
    assert(hd.audio.save(("%s/samples/%02d%s.wav"):format(args.out, i, class), x[i], args.rate))
  end
  local shown = math.min(32, args.samples)
  assert(hd.image.save(args.out .. "/samples.png",
    hd.image.grid(hd.audio.picture(x:narrow(1, 1, shown)), { columns = 8 })))
  assert(hd.image.save(args.out .. "/real.png", hd.image.grid(hd.audio.picture(first), { columns = 8 })))
  local lines = {}
  for i, decibels in ipairs(hd.audio.band_difference(data.x, x, { rate = args.rate, edges = H.edges })) do
    lines[i] = ("to %5.0f Hz: %+.2f dB\n"):format(H.edges[i], decibels)
  end
  local file <close> = assert(io.open(args.out .. "/bands.txt", "w"))
  file:write(table.concat(lines))
  run:say("energy of the bands beside the real ones:\n" .. table.concat(lines):sub(1, -2))
  run:say(("wrote %s/samples and %s/samples.png"):format(args.out, args.out))
end
