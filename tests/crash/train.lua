-- tests/crash/train.lua: a small training run that says where it is, so that a test knows what a signal met.
-- Lines "@NAME STEP CLOCK" go to stdout unbuffered: step (its body begins), save, saved (around a checkpoint), done.
-- OUT/final.safetensors holds at the end all that must not depend on stops, kills and threads: the state with its
-- optimizer and average, generator, place in the batches, every loss in the log, and samples drawn.

local hd = require "hd"
local core = require "hd.core"
local checkpoint = require "hd.run.checkpoint"
local logs = require "hd.run.log"

local args = hd.args {
  out = "run", regime = { "cascade", "flat" }, share = false, steps = 40, stop_at = hd.args.integer, resume = false,
  save_every = 0.0, size = 8, width = 8, batch = 8, window = false, watch = false,
}
io.stdout:setvbuf "no"

local function mark(name, step) io.write(("@%s %d %.6f\n"):format(name, step, hd.clock())) end

local set = hd.data.shapes { size = args.size, n = 64 }
local batches = set:batches { size = args.batch, seed = args.seed, flip = true, prefetch = 3 }
local H = hd.hierarchy.images { size = args.size, regime = args.regime }:fit_stats(set)
local models = H:models { width = args.width, share = args.share }
local opt = hd.optim.AdamW(models:parameters(), { lr = 1e-2 })
local ema = hd.optim.EMA(models, { decay = 0.9 })
local rate = hd.optim.lr.cosine(opt, { steps = args.steps, warmup = 3 })
local state = { models = models, opt = opt, ema = ema, rate = rate, own = hd.rng(5) }
local run <close> = assert(hd.run.new {
  out = args.out, resume = args.resume, save_every = args.save_every, state = state,
  settings = { regime = args.regime, share = args.share, steps = args.steps, resume = args.resume },
})

function run:save()
  mark("save", self.step)
  local done, message = hd.run.Run.save(self)
  mark("saved", self.step)
  return done, message
end

local watched = args.watch and core.watch_threads()
for step, x in run:steps(batches, args.steps, { stop_at = args.stop_at }) do
  mark("step", step)
  local loss, parts = H:loss(models, x + hd.randn_like(x, { rng = state.own }) * 0.01)
  opt:zero_grad()
  loss:backward()
  hd.optim.clip_grad_norm_(models:parameters(), 1)
  opt:step()
  ema:update()
  rate:step()
  run:log { loss = loss, levels = parts }
  if args.window then run:preview(x) end
end

if run.step == args.steps then
  local losses = {}
  for entry in logs.entries(args.out .. "/log.jsonl") do
    if not entry.event then
      assert(entry.step == #losses + 1, "the log repeats or lacks a step")
      losses[entry.step] = entry.loss
    end
  end
  local samples = H:sample(ema.model, 3, { seed = 7, steps = 2 })
  local parts = checkpoint.pack { state = state, generator = core.rng_state(), batches = batches:state_dict(),
    losses = core.tensor(losses, { dtype = "f64" }), samples = samples }
  assert(hd.save(args.out .. "/final.safetensors", parts.tensors, { metadata = {
    texts = core.json_encode(parts.texts) } }))
end
if watched then print(("@team %d %d"):format(core.watch_threads())) end
mark("done", run.step)
