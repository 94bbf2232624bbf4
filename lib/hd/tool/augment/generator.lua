-- hd/tool/augment/generator.lua: the hierarchy that learns to draw pictures of each class from a few real ones.
-- Called by: examples/augment.lua, augment_study.lua.

local hd = require "hd"

local generator = {}

--- Train networks that are told the classes, in a run's folder of its own (hd.run): log, checkpoints, and at the end
--- OUT/model.safetensors, which `hdlua -m augment` reads. The real pictures are augmented mildly on the way: with
--- twenty of a class the networks would otherwise learn them by heart.
---@param set hd.data.Set  with labels; square pictures of 1 or 3 channels
---@param o table  out; minutes or steps; seed; resume; width, batch, lr; regime (cascade); flip; augment: options of
---  hd.data.augment
---@return hd.hierarchy.Hierarchy H
---@return hd.hierarchy.Models models
---@return number seconds  of training
function generator.train(set, o)
  local size = set.x:size(3)
  local H = hd.hierarchy.images { size = size, channels = set.x:size(2), regime = o.regime }
  H:check(set)
  H:fit_stats(set)
  hd.seed(o.seed)
  local models = H:models { width = o.width, classes = math.tointeger(set.labels:amax():item()) }
  local params = models:parameters()
  local opt, ema = hd.optim.AdamW(params, { lr = o.lr }), hd.optim.EMA(models, { decay = 0.995 })
  local run <close> = assert(hd.run.new {
    out = o.out, resume = o.resume, levels = H:level_names(),
    settings = { pictures = #set, size = size, seed = o.seed, width = o.width, batch = o.batch, lr = o.lr,
      steps = o.steps, minutes = o.minutes, flip = o.flip },
    state = { models = models, opt = opt, ema = ema, statistics = H },
  })
  local function train(x, labels)
    local loss, parts = H:loss(models, x, { labels = labels })
    opt:zero_grad()
    loss:backward()
    hd.optim.clip_grad_norm_(params, 1)
    opt:step()
    ema:update()
    return loss, parts
  end
  local options = { size = math.min(o.batch, #set), seed = o.seed, flip = o.flip, augment = o.augment }
  local batches, first, labels_of_first = set:batches(options), set:batches(options)()
  local steps = o.steps or run:plan(o.minutes, function() train(first, labels_of_first) end)
  local rate = hd.optim.lr.cosine(opt, { steps = steps, warmup = math.min(100, steps // 10), final = 0.02 })
  run.state.rate = rate
  for _, x, labels in run:steps(batches, steps) do
    local loss, parts = train(x, labels)
    run:log { loss = loss, levels = parts }
    rate:step()
  end
  assert(H:save(o.out .. "/model.safetensors", ema.model))
  return H, ema.model, run:seconds()
end

return generator
