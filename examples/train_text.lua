-- examples/train_text.lua: train a hierarchy of texts, sentences, phrases and words, and write with it.
--
--     hdlua examples/train_text.lua --data book.txt --minutes 15 --out runs/text
--
-- Masks are lifted level by level: first what ends sentences, then what parts phrases, then the rest; of words (--unit
-- word) the first two levels also hold those that say most about a sentence or phrase. One transformer, which is told
-- level and time, learns all levels; --levels 1 lifts masks anywhere. Phrases are as given where the text parts them by
-- bars, as in "Bush | nominated | two individuals | .".
-- OUT holds samples.txt, infilled.txt, bound.txt (bits per character of text held out), model.safetensors, loss.png,
-- log.jsonl and the checkpoint from which --resume goes on.

local hd = require "hd"

local args = hd.args({
  data = "poems", unit = { "char", "word" }, symbols = 8192, length = 128, levels = 3, held_out = 0.1,
  minutes = 5.0, steps = hd.args.integer, stop_at = hd.args.integer, batch = 32, width = 256, depth = 4, lr = 1e-3,
  out = "runs/text", samples = 4, draw_steps = 64, order = { "chance", "confidence" }, times = 64,
  windows = hd.args.integer, resume = false, save_every = 30.0, on_nan = { "stop", "skip", "rollback" },
}, {
  "Train a hierarchy of texts and write with it.",
  data = "a text file (UTF-8), or poems, which come with hdlua", unit = "tokens are characters or words",
  symbols = "the most symbols of the vocabulary", length = "tokens of a text",
  levels = "3: sentences, phrases, words; 1: not ordered by level",
  held_out = "share of the text, at its end, that is not trained on",
  minutes = "train so long", steps = "train so many steps instead of --minutes",
  stop_at = "end after this step, on the same schedule", batch = "texts in a step",
  width = "channels of the network", depth = "blocks of the network", lr = "highest learning rate",
  out = "the folder for everything that is written", samples = "texts to write at the end",
  draw_steps = "steps in which each level's masks are lifted", order = "lift masks by chance, or the surest first",
  times = "times at which each text held out is measured", windows = "measure so many texts held out instead of all",
  resume = "go on from the last checkpoint in OUT", save_every = "seconds between checkpoints, 0: every step",
  on_nan = "where loss or gradients are not finite: stop, skip the step, or go back to the last checkpoint",
})

-- Data: tokens ------------------------------------------------------------------------------------------------------

local set = assert(hd.data.text(args.data ~= "poems" and args.data or nil,
  { length = args.length, unit = args.unit, size = args.symbols }))
print(set)
local data, held_out = set:split(1 - args.held_out)
local batches = data:batches { size = args.batch, seed = args.seed }
local first = data:batches { size = args.batch, seed = args.seed }() -- leaves `batches` at its beginning

-- Hierarchy, network, optimizer -------------------------------------------------------------------------------------

local H = hd.hierarchy.text { vocabulary = set.vocabulary, length = args.length, levels = args.levels,
  steps = args.draw_steps }
H:check(data)
H:fit_stats(data)
print(H)
for name, x in pairs(H:pictures(first:narrow(1, 1, 1))) do
  print(("%-9s %s"):format(name, (set.vocabulary:decode(x)[1]:gsub("\n", "/"))))
end

local models = H:models { width = args.width, depth = args.depth, share = args.levels > 1 }
local params = models:parameters()
local opt = hd.optim.AdamW(params, { lr = args.lr, betas = { 0.9, 0.98 }, weight_decay = 0.01 })
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

-- The run -----------------------------------------------------------------------------------------------------------

local run <close> = assert(hd.run.new {
  out = args.out, settings = args, resume = args.resume, save_every = args.save_every, levels = H:level_names(),
  on_nan = args.on_nan,
  state = { models = models, opt = opt, ema = ema, statistics = H },
})

local sampler = hd.hierarchy.unmask { order = args.order, cached = true }

local function write(n, opts)
  opts.seed, opts.sampler = args.seed, sampler
  return set.vocabulary:decode((H:sample(ema.model, n, opts)))
end

local steps = args.steps or run:plan(args.minutes, function() train(first) end)
local rate = hd.optim.lr.cosine(opt, { steps = steps, warmup = math.min(200, steps // 10), final = 0.02 })
run.state.rate = rate

for _, x in run:steps(batches, steps, { stop_at = args.stop_at }) do
  local loss, parts = train(x)
  run:log { loss = loss, levels = parts }
  rate:step()
  if run:due("samples", 60) then run:say(write(1, {})[1]) end
end

-- Results -----------------------------------------------------------------------------------------------------------

assert(H:save(args.out .. "/model.safetensors", ema.model))

local function keep(name, s)
  local file <close> = assert(io.open(args.out .. "/" .. name, "w"))
  file:write(s)
  run:say(("wrote %s/%s"):format(args.out, name))
end

local bound, interval, parts = hd.metrics.bits_per_character(H, ema.model, held_out,
  { times = args.times, windows = args.windows, resamples = 20 })
local line = ("bound on %s held out: %.3f bits per character"):format(args.data, bound)
if interval then line = line .. (" [%.3f, %.3f]"):format(interval.low, interval.high) end
for _, name in ipairs(H:level_names()) do line = line .. (", %s %.3f"):format(name, parts[name]) end
keep("bound.txt", line .. "\n")
run:say(line)

if args.samples > 0 then
  keep("samples.txt", table.concat(write(args.samples, {}), "\n\n-----\n\n") .. "\n")
  -- infilling: the first and the last third of a text are given
  local x, mask = held_out.x:narrow(1, 1, 1), hd.ones { 1, args.length }
  mask:narrow(2, args.length // 3 + 1, args.length // 3):fill_(0)
  local known = x * mask:to "i64" -- 0 is no symbol: shown as _
  keep("infilled.txt", set.vocabulary:decode(known)[1] .. "\n\n-----\n\n"
    .. write(1, { inpaint = { x = x, mask = mask } })[1] .. "\n")
end
