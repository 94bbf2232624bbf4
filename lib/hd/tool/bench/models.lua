-- hd/tool/bench/models.lua: the reference models, one train step of each, and what it costs by formula.
-- Floating point operations are 2 for each multiply-add of convolutions, linear layers and attention products; a step
-- has forward, the gradient of every weight, and of every input that depends on a parameter. Nothing that an algorithm
-- saves is deducted. Called by: child.lua, verify.lua, bench.lua.

local hd = require "hd"
local nn, F = hd.nn, hd.nn.functional

local models = {}

local TIME = { dim = 64, embed = 256 }

-- Costs -----------------------------------------------------------------------------------------------------------

-- A sum of operations. The first layer and the first of the time embedding need no gradient of their input.
local function counter()
  local sum = { all = 0, first = 0 }
  function sum.add(flops, is_first)
    sum.all = sum.all + flops
    if is_first then sum.first = sum.first + flops end
  end
  function sum.linear(rows, from, to, is_first) sum.add(2 * rows * from * to, is_first) end
  -- Forward and train step in GFLOP.
  function sum.result() return sum.all / 1e9, (3 * sum.all - sum.first) / 1e9 end
  return sum
end

local function count_time(sum, batch, width)
  sum.linear(batch, TIME.dim, TIME.embed, true)
  sum.linear(batch, TIME.embed, width)
end

-- U-Nets ----------------------------------------------------------------------------------------------------------
-- dims, size of the picture or signal, kernel, factor between levels, attention on the second level and in the middle

local function unet_net(u)
  local down_block_types = u.attention and { "DownBlock2D", "AttnDownBlock2D", "DownBlock2D" } or nil
  return nn.UNet {
    dims = u.dims, in_channels = u.planes, out_channels = u.planes, block_out_channels = u.channels,
    layers_per_block = u.layers, norm_num_groups = u.groups, kernel_size = u.kernel, down = u.down,
    down_block_types = down_block_types, add_attention = u.attention, num_attention_heads = u.attention and 4 or nil,
    fuse_qkv = u.attention, time_dim = TIME.dim, time_embed_dim = TIME.embed,
  }
end

local function unet_cost(u)
  local sum, levels = counter(), #u.channels
  local function points(level) return (u.size // u.down ^ (level - 1)) ^ u.dims end
  local function conv(level, from, to, kernel, is_first)
    sum.linear(u.batch * points(level), from * kernel ^ u.dims, to, is_first)
  end
  local function res(level, from, to)
    conv(level, from, to, u.kernel)
    sum.linear(u.batch, TIME.embed, to)
    conv(level, to, to, u.kernel)
    if from ~= to then conv(level, from, to, 1) end
  end
  local function attention(level, c)
    conv(level, c, 3 * c, 1)
    sum.add(4 * u.batch * points(level) ^ 2 * c)
    conv(level, c, c, 1)
  end
  count_time(sum, u.batch, TIME.embed)
  local c, skips = u.channels[1], { u.channels[1] }
  conv(1, u.planes, c, u.kernel, true)
  for level, width in ipairs(u.channels) do
    for _ = 1, u.layers do
      res(level, c, width)
      if u.attention and level == 2 then attention(level, width) end
      c = width
      skips[#skips + 1] = c
    end
    if level < levels then
      conv(level + 1, c, c, u.down == 2 and 3 or u.down)
      skips[#skips + 1] = c
    end
  end
  res(levels, c, c)
  if u.attention then attention(levels, c) end
  res(levels, c, c)
  for level = levels, 1, -1 do
    for _ = 1, u.layers + 1 do
      res(level, c + table.remove(skips), u.channels[level])
      c = u.channels[level]
      if u.attention and level == 2 then attention(level, c) end
    end
    if level > 1 then conv(level - 1, c, c, u.kernel) end
  end
  conv(1, c, u.planes, u.kernel)
  return sum.result()
end

local function unet_shape(u)
  local shape = { u.batch, u.planes }
  for _ = 1, u.dims do shape[#shape + 1] = u.size end
  return shape
end

-- Steps -----------------------------------------------------------------------------------------------------------
-- A model's `start` makes its fixed data, `draw` what a step draws anew, `loss` the loss of a network for both.

-- Predict the noise at random times of the linear schedule; the data are fixed and in [-1, 1].
local noise = {}

function noise.start(w) return hd.rand(w.shape) * 2 - 1 end

function noise.draw(w) return { t = hd.randint(1, 1000, { w.shape[1] }), eps = hd.randn(w.shape) } end

function noise.loss(w, net, x0, drawn)
  if not w.alphas then
    local abar = hd.schedule.linear { T = 1000 }:alphas_cumprod()
    w.alphas, w.sigmas = abar:sqrt():to "f32", (1 - abar):sqrt():to "f32"
  end
  local ones = { w.shape[1] }
  for i = 2, #w.shape do ones[i] = 1 end
  local t, eps = drawn.t, drawn.eps
  local x = w.alphas:index_select(1, t):view(ones) * x0 + w.sigmas:index_select(1, t):view(ones) * eps
  return F.mse_loss(net(x, t - 1), eps)
end

-- Remove a little noise.
local denoise = {}

function denoise.start(w) return hd.rand(w.shape) end

function denoise.draw(w) return { eps = hd.randn(w.shape) } end

function denoise.loss(_, net, x, drawn) return F.mse_loss(net(x + drawn.eps * 0.1), x) end

-- Recover tokens of which a share t / 1000 is masked by the last token of the vocabulary.
local mask = {}

function mask.start(w) return hd.randint(1, 255, w.shape) end

function mask.draw(w)
  local t = hd.randint(1, 1000, { w.shape[1] })
  return { t = t, hidden = hd.rand(w.shape):lt((t:to "f32" / 1000):view(w.shape[1], 1)) }
end

function mask.loss(_, net, ids, drawn)
  local logits = net(ids:masked_fill(drawn.hidden, 256), drawn.t)
  return F.cross_entropy(logits:view(-1, 256), ids:view(-1))
end

-- Models ----------------------------------------------------------------------------------------------------------

local function unet_model(u, opts)
  return {
    kind = noise, shape = unet_shape(u), lr = 2e-4, ema = opts.ema,
    net = function() return unet_net(u) end, cost = function() return unet_cost(u) end,
  }
end

-- unet32_tiny with another batch, first width and size of pictures.
local function image_model(batch, width, size, layers, groups)
  return unet_model({
    dims = 2, planes = 3, size = size, batch = batch, channels = { width, 2 * width, 2 * width }, layers = layers,
    groups = groups, kernel = 3, down = 2, attention = true,
  }, { ema = 0.999 })
end

local function plain_model()
  local widths = { 3, 64, 128, 256, 3 }
  local function net()
    local layers = {}
    for i = 1, #widths - 1 do
      layers[#layers + 1] = nn.Conv2d(widths[i], widths[i + 1], 3, { padding = 1 })
      if i < #widths - 1 then layers[#layers + 1] = F.relu end
    end
    return nn.Sequential(table.unpack(layers))
  end
  local function cost()
    local sum = counter()
    for i = 1, #widths - 1 do sum.linear(64 * 64 * 64, widths[i] * 9, widths[i + 1], i == 1) end
    return sum.result()
  end
  return { kind = denoise, shape = { 64, 3, 64, 64 }, lr = 1e-3, optimizer = "Adam", net = net, cost = cost }
end

local function text_model()
  local batch, length, dim = 32, 128, 256
  local function net()
    return nn.Transformer {
      vocab_size = 256, max_length = length, dim = dim, depth = 4, heads = 4, time_dim = TIME.dim,
      time_embed_dim = TIME.embed,
    }
  end
  local function cost()
    local sum = counter()
    count_time(sum, batch, dim)
    for _ = 1, 4 do
      sum.linear(batch * length, dim, (3 + 1 + 4 + 4) * dim) -- queries, keys and values; out; the two of the MLP
      sum.add(4 * batch * length ^ 2 * dim)
    end
    sum.linear(batch * length, dim, 256)
    return sum.result()
  end
  return { kind = mask, shape = { batch, length }, lr = 3e-4, net = net, cost = cost }
end

local function sample_model()
  local w = image_model(16, 64, 32, 2, 32)
  local net, cost = w.net, w.cost
  return {
    kind = "sample", shape = w.shape, net = net,
    cost = function()
      local forward = cost()
      return forward, 20 * forward
    end,
  }
end

models.names = { "seed_model", "unet32", "unet32_tiny", "sample32", "audio1d", "text" }

--- How cost grows with the size of the pictures, with the batch and with the width.
models.growth = {
  "unet_2_32_16", "unet_2_32_32", "unet_2_32_64", "unet_2_32_128", "unet_1_32_32", "unet_4_32_32", "unet_8_32_32",
  "unet_16_32_32", "unet_32_32_32", "unet_8_16_32", "unet_8_64_32", "unet_8_128_32",
}

local MAKE = {
  seed_model = plain_model, sample32 = sample_model, text = text_model,
  unet32 = function() return image_model(16, 64, 32, 2, 32) end,
  unet32_tiny = function() return image_model(32, 32, 32, 1, 8) end,
  audio1d = function()
    return unet_model({
      dims = 1, planes = 1, size = 8192, batch = 16, channels = { 32, 64, 128, 128 }, layers = 1, groups = 8,
      kernel = 5, down = 4, attention = false,
    }, {})
  end,
}

--- A model by its name: one of models.names, or unet_BATCH_WIDTH_SIZE, which is unet32_tiny of other sizes.
---@param name string
---@return table? model  name, shape, lr, ema, net() -> hd.nn.Module, cost() -> GFLOP forward, GFLOP of a step
function models.find(name)
  local batch, width, size = name:match "^unet_(%d+)_(%d+)_(%d+)$"
  local model = MAKE[name] and MAKE[name]()
    or batch and image_model(math.tointeger(batch), math.tointeger(width), math.tointeger(size), 1, 8)
  if model then model.name = name end
  return model or nil
end

-- One batch of samples; the untimed steps are single passes of the network.
local function sample_step(w, net)
  local schedule = hd.schedule.linear { T = 1000 }
  net:eval()
  return function(is_warmup)
    local steps = is_warmup and 1 or 20
    return hd.sampler.discrete.ddim(net, hd.randn(w.shape), schedule, { steps = steps, clip = 1 })
  end
end

--- A function that makes one step: clear the gradients, draw, forward, loss, backward, optimizer, moving average. The
--- loss is returned, not read back.
---@param w table               from find
---@param net hd.nn.Module
---@param data? hd.Tensor       in place of w's own
---@param draws? fun(): table   in place of w's own
---@return fun(is_warmup: boolean?): hd.Tensor
function models.step(w, net, data, draws)
  if w.kind == "sample" then return sample_step(w, net) end
  local optimizer = hd.optim[w.optimizer or "AdamW"](net:parameters(), { lr = w.lr })
  local ema = w.ema and hd.optim.EMA(net, { decay = w.ema, warmup = false })
  data, draws = data or w.kind.start(w), draws or function() return w.kind.draw(w) end
  return function()
    optimizer:zero_grad()
    local loss = w.kind.loss(w, net, data, draws())
    loss:backward()
    optimizer:step()
    if ema then ema:update() end
    return loss
  end
end

return models
