-- hd/tool/sound/recogniser.lua: a small classifier of sounds that is to know those of speakers it has not heard: it
-- learns from mel spectrograms that are changed by chance as other mouths, microphones and moments would.
-- Called by: compare_audio.lua.

local hd = require "hd"
local nn = hd.nn

local recogniser = {}
local BANDS, WIDTH, RANGE = 40, 24, 13 -- mel bands; channels; what lies this far below the loudest (nats) is silence

-- Mean 0 and deviation 1 over each clip, and beside it the same without each band's own mean, [n, 2, bands, columns].
local function normalised(x)
  local n = x:size(1)
  local f = x:reshape(n, -1)
  f = (f - f:amax({ 2 }, true)):clamp(-RANGE)
  f = f - f:mean({ 2 }, true)
  f = (f / (f:square():mean({ 2 }, true):sqrt() + 1e-3)):reshape(table.unpack(x:shape()))
  return hd.cat({ f, f - f:mean({ 4 }, true) }, 2)
end

-- ln of the power in mel bands of clips [n, 1, frames]: [n, 1, bands, columns].
local function log_mel(x, rate)
  local _ <close> = hd.no_grad()
  local parts = {}
  for first = 1, x:size(1), 64 do
    parts[#parts + 1] = hd.audio.spectrogram(x:narrow(1, first, math.min(64, x:size(1) - first + 1)),
      { size = 256, hop = 128, bands = BANDS, rate = rate })
  end
  return (hd.cat(parts, 1) + 1e-6):log():unsqueeze(2)
end

--- What clips are to the ear, for distances between them: [n, 2, bands, columns] of deviation 1.
---@param x hd.Tensor     [n, 1, frames]
---@param rate integer
---@return hd.Tensor
function recogniser.features(x, rate) return normalised(log_mel(x, rate)) end

local function even(n, reach) return (hd.rand { n, 1 } * 2 - 1) * reach end

-- x [n, 1, bands, columns] stretched about its middle and moved along a dimension, by numbers [n, 1].
local function warped(x, dim, scale, shift)
  local n, extent = x:size(1), x:size(dim)
  local middle = (extent - 1) / 2
  local at = ((hd.arange(0, extent - 1):to "f32" - middle):view(1, extent) * scale + middle + shift)
    :clamp(0, extent - 1)
  local first = at:floor():clamp(0, extent - 2)
  local shape, full = { n, 1, 1, 1 }, x:shape()
  shape[dim] = extent
  local share = (at - first):view(table.unpack(shape))
  local index = (first + 1):to "i64":view(table.unpack(shape)):expand(table.unpack(full)):contiguous()
  local a, b = x:gather(dim, index), x:gather(dim, index + 1)
  return a + (b - a) * share
end

-- 0 for a stretch of up to `most` places along a dimension, else 1.
local function gap(x, dim, most)
  local n, extent, shape = x:size(1), x:size(dim), { 1, 1, 1, 1 }
  shape[dim] = extent
  local place = hd.arange(0, extent - 1):to "f32":view(table.unpack(shape))
  local from, length = hd.rand { n, 1, 1, 1 } * extent, hd.rand { n, 1, 1, 1 } * most
  return 1 - (place:ge(from):to "f32" * place:lt(from + length):to "f32")
end

-- Another mouth (frequencies), tempo and moment (time), microphone (a smooth curve over the bands), noise floor.
-- Sources: vocal tract perturbation, Jaitly and Hinton 2013; gaps, Park et al. 2019.
local function varied(x)
  local n, bands = x:size(1), x:size(3)
  x = warped(x, 3, even(n, 0.12) + 1, even(n, 3))
  x = warped(x, 4, even(n, 0.2) + 1, even(n, 4))
  local place, curve = hd.arange(0, bands - 1):to "f32":view(1, -1) * (math.pi / (bands - 1)), 0
  for k = 1, 4 do curve = curve + hd.randn { n, 1 } * 0.7 * (place * k + hd.rand { n, 1 } * (2 * math.pi)):cos() end
  x = x + curve:view(n, 1, bands, 1)
  local floor = x:reshape(n, -1):amax({ 2 }, true):view(n, 1, 1, 1) - 8 - hd.rand { n, 1, 1, 1 } * 6
  x = normalised((x:exp() + floor:exp()):log())
  return x * gap(x, 3, 6) * gap(x, 4, 6)
end

local function network(classes)
  local layers = {}
  for _, block in ipairs { { 2, 1, 1 }, { 1, 1, 2 }, { 1, 2, 1 }, { 2, 2, 2 }, { 2, 4, 2 } } do
    local from, to = #layers == 0 and 2 or block[1] * WIDTH, block[2] * WIDTH
    layers[#layers + 1] = nn.Conv2d(from, to, 3, { stride = block[3], padding = 1 })
    layers[#layers + 1] = nn.GroupNorm(8, to, { activation = "silu" })
  end
  layers[#layers + 1] = function(x) return hd.cat({ x:mean(4), x:amax(4) }, 2):flatten(2) end
  layers[#layers + 1] = nn.Dropout(0.3)
  layers[#layers + 1] = nn.Linear(8 * WIDTH * (BANDS // 8), classes)
  return nn.Sequential(layers)
end

--- Train a recogniser.
---@param sets hd.data.Set[]  clips of one rate and length with the same classes; each batch has as many of each set
---@param o table  steps, seed, classes
---@return table recogniser  for recogniser.answers
function recogniser.train(sets, o)
  hd.seed(o.seed)
  local net, inputs = network(o.classes), {}
  for i, set in ipairs(sets) do inputs[i] = log_mel(set.x, set.rate) end
  local opt = hd.optim.AdamW(net:parameters(), { lr = 2e-3, weight_decay = 0.05 })
  local ema = hd.optim.EMA(net, { decay = 0.99 })
  local rate = hd.optim.lr.cosine(opt, { steps = o.steps, warmup = math.min(50, o.steps // 10), final = 0.01 })
  for _ = 1, o.steps do
    local _ <close> = hd.scope()
    local xs, labels = {}, {}
    for i, set in ipairs(sets) do
      local index = (hd.rand { 64 // #sets } * #set):floor():to "i64" + 1
      xs[i], labels[i] = inputs[i]:index_select(1, index), set.labels:index_select(1, index)
    end
    local loss = nn.functional.cross_entropy(net(varied(hd.cat(xs, 1))), hd.cat(labels, 1), { label_smoothing = 0.1 })
    opt:zero_grad()
    loss:backward()
    opt:step()
    ema:update()
    rate:step()
  end
  ema.model:eval()
  return { net = ema.model, rate = sets[1].rate }
end

--- The class that it takes each clip for.
---@param self table    of recogniser.train
---@param x hd.Tensor   [n, 1, frames]
---@return hd.Tensor    i64 [n]
function recogniser.answers(self, x)
  local _ <close> = hd.no_grad()
  local features, answers = recogniser.features(x, self.rate), hd.empty({ x:size(1) }, { dtype = "i64" })
  for first = 1, x:size(1), 64 do
    local _ <close> = hd.scope()
    local n = math.min(64, x:size(1) - first + 1)
    answers:narrow(1, first, n):copy_(self.net(features:narrow(1, first, n)):argmax(2))
  end
  return answers
end

return recogniser
