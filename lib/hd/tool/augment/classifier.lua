-- hd/tool/augment/classifier.lua: the small classifier that says whether drawn pictures help: the same network, the
-- same number of steps and of pictures in each, whatever it learns from.
-- Called by: examples/augment.lua, augment_study.lua.

local hd = require "hd"
local nn = hd.nn

local classifier = {}

-- Three halvings of the picture, then one linear layer on what is left of it: 4x4 of 28x28 or 32x32.
local function network(channels, size, classes)
  local layers, left = {}, size
  for _, block in ipairs { { channels, 16, 2 }, { 16, 32, 1 }, { 32, 64, 2 }, { 64, 64, 2 } } do
    local from, to, stride = table.unpack(block)
    left = (left + stride - 1) // stride
    layers[#layers + 1] = nn.Conv2d(from, to, 3, { stride = stride, padding = 1 })
    layers[#layers + 1] = nn.GroupNorm(8, to, { activation = "silu" })
  end
  layers[#layers + 1] = function(x) return x:flatten(2) end
  layers[#layers + 1] = nn.Linear(64 * left * left, classes)
  return nn.Sequential(layers)
end

-- Functions that give batches: the real pictures alone, or a share of drawn ones among them.
local function sources(real, made, o)
  local list, drawn = {}, made and math.floor(o.batch * o.share + 0.5) or 0
  for _, part in ipairs { { real, o.batch - drawn }, { made, drawn } } do
    if part[2] > 0 then
      list[#list + 1] = part[1]:batches { size = math.min(part[2], #part[1]), seed = o.seed, augment = o.augment,
        flip = o.flip }
    end
  end
  return list
end

-- The next batch of all sources together.
local function next_batch(list)
  local xs, labels = {}, {}
  for i, batches in ipairs(list) do xs[i], labels[i] = batches() end
  return hd.cat(xs, 1), hd.cat(labels, 1)
end

--- Train it.
---@param real hd.data.Set
---@param made hd.data.Set?  drawn pictures
---@param o table  classes, steps, batch, lr, seed; share: of the drawn pictures in each batch; augment: options of
---  hd.data.augment, nil for none; flip
---@return hd.nn.Module
function classifier.train(real, made, o)
  hd.seed(o.seed)
  local net = network(real.x:size(2), real.x:size(3), o.classes)
  local opt = hd.optim.AdamW(net:parameters(), { lr = o.lr, weight_decay = 0.05 })
  local rate = hd.optim.lr.cosine(opt, { steps = o.steps, warmup = math.min(50, o.steps // 10), final = 0.01 })
  local list = sources(real, made, o)
  for _ = 1, o.steps do
    local _ <close> = hd.scope()
    local x, labels = next_batch(list)
    local loss = nn.functional.cross_entropy(net(x), labels)
    opt:zero_grad()
    loss:backward()
    opt:step()
    rate:step()
  end
  for _, batches in ipairs(list) do batches:close() end
  return net
end

--- The class that it takes each picture for.
---@param net hd.nn.Module
---@param set hd.data.Set
---@return hd.Tensor answers  i64 [n]
function classifier.answers(net, set)
  local _ <close> = hd.no_grad()
  local answers = hd.empty({ #set }, { dtype = "i64" })
  for first = 1, #set, 256 do
    local _ <close> = hd.scope()
    local n = math.min(256, #set - first + 1)
    local x = set.x:narrow(1, first, n):to "f32" * (1 / 127.5) - 1
    answers:narrow(1, first, n):copy_(net(x):argmax(2))
  end
  return answers
end

--- The share of right answers.
---@param net hd.nn.Module
---@param set hd.data.Set
---@return number
function classifier.accuracy(net, set)
  return classifier.answers(net, set):eq(set.labels):sum():item() / #set
end

--- The four training sets that are compared: with drawn pictures (made) or without, with standard augmentation or
--- without.
classifier.arms = {
  { name = "real" }, { name = "standard", augmented = true }, { name = "synthetic", made = true },
  { name = "both", made = true, augmented = true },
}

--- Train for one arm and measure on the other real pictures.
---@param arm table         of classifier.arms
---@param sets table        real, made, asked
---@param o table           of classifier.train; augment is used where the arm is augmented
---@return number accuracy
function classifier.measure(arm, sets, o)
  local options = { augment = arm.augmented and o.augment or nil, flip = arm.augmented and o.flip or false }
  for _, key in ipairs { "classes", "steps", "batch", "lr", "seed", "share" } do options[key] = o[key] end
  return classifier.accuracy(classifier.train(sets.real, arm.made and sets.made, options), sets.asked)
end

return classifier
