-- tests/lua/builds.lua: what every build of the kernels must keep, for the build that HDLUA_ISA and HDLUA_GEMM name:
--  - values and gradients are as near to those of `ref` (sums in double) as the limit of their method says,
--  - they have the same bits on 1, 2, 3, 8 and 16 threads, and so have three steps of training three small networks.
-- Run by builds_spec.lua in a process of its own. Prints what is wrong, a line each, and the number of comparisons.

local hd = require "hd"
local nn, F = hd.nn, hd.nn.functional

local THREADS = os.getenv "HDLUA_BRIEF" and { 1, 3 } or { 1, 2, 3, 8, 16 }
-- Relative L2 error. WINOGRAD: F(4x4), F(4,3) and F(4,5), where they fit the shape.
local PLAIN, WINOGRAD = 5e-7, 2e-6
local ATTENTION = 8e-7 -- its gradients: differences of nearly equal numbers (6.1e-7 measured)

local compared, draws = 0, 0

local function fail(format, ...) print("wrong: " .. format:format(...)) end

local function draw(shape)
  draws = draws + 1
  return hd.randn(shape, { rng = hd.rng(draws) })
end

-- Shapes of CONV_DESIGN, smaller: n, channels, outputs, h, w, kernel, stride, limit, more options.
local convolutions = {
  { 2, 3, 64, 16, 16, { 3, 3 }, 1, PLAIN },       -- first layer
  { 1, 64, 3, 16, 16, { 3, 3 }, 1, PLAIN },       -- last layer
  { 1, 64, 64, 16, 16, { 3, 3 }, 1, WINOGRAD },
  { 1, 128, 128, 8, 8, { 3, 3 }, 1, WINOGRAD },
  { 2, 32, 32, 16, 16, { 3, 3 }, 1, WINOGRAD },
  { 1, 16, 16, 32, 32, { 3, 3 }, 1, WINOGRAD },
  { 1, 64, 64, 7, 7, { 3, 3 }, 1, WINOGRAD },
  { 2, 128, 128, 4, 4, { 3, 3 }, 1, WINOGRAD },   -- one tile
  { 1, 64, 128, 16, 16, { 3, 3 }, 2, PLAIN },
  { 1, 128, 256, 8, 8, { 1, 1 }, 1, PLAIN },
  { 1, 64, 64, 10, 10, { 5, 5 }, 1, PLAIN },
  { 1, 64, 64, 16, 16, { 4, 4 }, 2, PLAIN },
  { 2, 64, 64, 1, 64, { 1, 5 }, 1, WINOGRAD },
  { 2, 64, 64, 1, 64, { 1, 3 }, 1, WINOGRAD },
  { 2, 32, 64, 1, 128, { 1, 4 }, 4, PLAIN },
  { 1, 96, 96, 16, 16, { 3, 3 }, 1, PLAIN, 96 },  -- depthwise
  { 1, 32, 64, 16, 16, { 3, 3 }, 1, PLAIN, 4 },   -- groups
}

-- name, function of its tensors, the tensors, limit of the value, limit of the gradients (the same unless given)
local cases = {}
local function add(name, f, inputs, limit, gradients)
  cases[#cases + 1] = { name = name, f = f, inputs = inputs, limit = limit or PLAIN, gradients = gradients }
end

for _, c in ipairs(convolutions) do
  local n, channels, outputs, h, w, kernel, stride, limit, groups = table.unpack(c, 1, 9)
  local padding = { (kernel[1] - 1) // 2, (kernel[2] - 1) // 2 }
  local options = { stride = h > 1 and stride or { 1, stride }, padding = padding, groups = groups or 1 }
  add(("conv2d %d,%d,%d,%dx%d kernel %dx%d stride %d"):format(n, channels, outputs, h, w, kernel[1], kernel[2], stride),
    function(x, weight, bias) return F.conv2d(x, weight, bias, options) end,
    { draw { n, channels, h, w }:channels_last(), draw { outputs, channels // (groups or 1), kernel[1], kernel[2] },
      draw { outputs } }, limit)
end
add("conv_transpose2d", function(x, w) return F.conv_transpose2d(x, w, nil, { stride = 2, padding = 1 }) end,
  { draw { 1, 64, 8, 8 }:channels_last(), draw { 64, 32, 4, 4 } })
add("linear", F.linear, { draw { 70, 256 }, draw { 300, 256 }, draw { 300 } })
add("matmul", function(a, b) return a:matmul(b) end, { draw { 3, 65, 130 }, draw { 3, 130, 90 } })
add("attention", F.scaled_dot_product_attention,
  { draw { 2, 2, 70, 32 }, draw { 2, 2, 90, 32 }, draw { 2, 2, 90, 32 } }, PLAIN, ATTENTION)
add("group_norm", function(x, w, b) return F.group_norm(x, 8, w, b) end,
  { draw { 2, 32, 12, 12 }:channels_last(), draw { 32 }, draw { 32 } })
add("group_norm_conv2d", function(x, more, nw, nb, w, b)
  return F.group_norm_conv2d(x, 4, nw, nb, more, w, b, nil, { padding = 1, activation = "silu" })
end, { draw { 3, 36, 18, 13 }:channels_last(), draw { 3, 16, 18, 13 }:channels_last(), draw { 52 }, draw { 52 },
  draw { 70, 52, 3, 3 }, draw { 70 } }, WINOGRAD)
add("group_norm_conv1d", function(x, nw, nb, w, b)
  return F.group_norm_conv1d(x, 4, nw, nb, nil, w, b, nil, { padding = 2, activation = "silu" })
end, { draw { 2, 32, 1030 }:channels_last(), draw { 32 }, draw { 32 }, draw { 40, 32, 5 }, draw { 40 } }, WINOGRAD)
add("layer_norm", function(x, w, b) return F.layer_norm(x, { 65 }, w, b) end, { draw { 40, 65 }, draw { 65 },
  draw { 65 } })
add("rms_norm", function(x) return F.rms_norm(x, { 65 }) end, { draw { 40, 65 } })
add("batch_norm", function(x) return F.batch_norm(x, nil, nil, nil, nil, { training = true }) end,
  { draw { 4, 20, 6, 6 } })
add("interpolate", function(x) return F.interpolate(x, { size = { 23, 17 }, mode = "bilinear" }) end,
  { draw { 2, 20, 9, 9 }:channels_last() })
add("avg_pool2d", function(x) return F.avg_pool2d(x, 2) end, { draw { 2, 20, 10, 10 }:channels_last() })
add("add", function(x, y) return x + y end, { draw { 2, 20, 10, 10 }:channels_last(), draw { 1, 20, 1, 1 } })
for _, name in ipairs { "exp", "sigmoid", "silu", "gelu", "tanh", "softmax", "log_softmax", "logsumexp", "sum", "mean",
  "var", "cumsum" } do
  add(name, function(x) return x[name](x, #name > 4 and name:find "sum" and 1 or name:find "soft" and 2 or nil) end,
    { draw { 60, 333 } })
end

-- The value and the gradients of a case.
local function evaluate(case)
  local inputs = {}
  for i, x in ipairs(case.inputs) do inputs[i] = x:detach():requires_grad_() end
  for _, x in ipairs(inputs) do
    if x:grad() then x:grad():zero_() end
  end
  local y = case.f(table.unpack(inputs))
  case.dy = case.dy or draw(y:shape()) -- by `cpu` for both: `ref` draws with other last bits
  y:backward(case.dy)
  local out = { y:detach():clone() }
  for i, x in ipairs(inputs) do out[i + 1] = x:grad():clone() end
  return out
end

local function distance(a, b)
  local x, y = a:to "f64", b:to "f64"
  return (x - y):norm():item() / y:norm():item()
end

local function same_on_all_threads(name, f)
  local expected
  for _, threads in ipairs(THREADS) do
    hd.threads(threads)
    local found = f()
    expected = expected or found
    for i, x in ipairs(expected) do
      compared = compared + 1
      if not x:equal(found[i]) then fail("%s: other bits with %d threads in result %d", name, threads, i) end
    end
  end
  return expected
end

local function check(case, limit, gradients)
  local found = same_on_all_threads(case.name, function() return evaluate(case) end)
  hd.backend "ref"
  local expected = evaluate(case)
  hd.backend "cpu"
  for i, y in ipairs(found) do
    compared = compared + 1
    local most, error = i > 1 and gradients or limit, distance(y, expected[i])
    if not (error <= most) then fail("%s: error %.3g of result %d, limit %.3g", case.name, error, i, most) end
  end
end

for _, case in ipairs(cases) do check(case, case.limit, case.gradients) end

-- In strict mode nothing rounds more than sums of products do.
hd.accuracy "strict"
for _, case in ipairs(cases) do
  if case.limit == WINOGRAD then check(case, PLAIN) end
end
hd.accuracy "fast"

-- Training --------------------------------------------------------------------------------------------------------

local function noisy(net, x)
  local t = hd.randint(1, 1000, { x:size(1) })
  local noise = hd.randn_like(x)
  return F.mse_loss(net(x + noise, t), noise)
end

local networks = {
  { "image U-Net", function() return nn.UNet { block_out_channels = { 16, 32 }, layers_per_block = 1,
    norm_num_groups = 8, down_block_types = { "DownBlock2D", "AttnDownBlock2D" } } end,
    function(net) return noisy(net, draw { 4, 3, 16, 16 }) end },
  { "audio U-Net", function() return nn.UNet { dims = 1, in_channels = 1, out_channels = 1,
    block_out_channels = { 16, 32 }, layers_per_block = 1, norm_num_groups = 8, kernel_size = 5, down = 4,
    add_attention = false } end,
    function(net) return noisy(net, draw { 4, 1, 512 }) end },
  { "transformer", function() return nn.Transformer { vocab_size = 60, max_length = 33, dim = 64, depth = 2,
    heads = 4 } end,
    function(net)
      local ids = hd.randint(1, 60, { 4, 33 })
      return F.cross_entropy(net(ids, hd.randint(1, 1000, { 4 })):view(-1, 60), ids:view(-1))
    end },
}

-- Every loss, weight and average of three steps.
local function train(make, loss_of)
  hd.seed(3)
  draws = 1000
  local net = make()
  local opt, ema = hd.optim.AdamW(net:parameters(), { lr = 1e-3 }), hd.optim.EMA(net, { decay = 0.9 })
  local out = {}
  for step = 1, 3 do
    local loss = loss_of(net)
    opt:zero_grad()
    loss:backward()
    hd.optim.clip_grad_norm_(net:parameters(), 1)
    opt:step()
    ema:update()
    out[step] = loss:detach()
  end
  for _, holder in ipairs { net, ema.model } do
    for _, p in ipairs(holder:parameters()) do out[#out + 1] = p:detach() end
  end
  return out
end

for _, network in ipairs(networks) do
  same_on_all_threads(network[1], function() return train(network[2], network[3]) end)
end

print(("%d comparisons"):format(compared))
