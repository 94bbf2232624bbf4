-- Values never depend on memory order, nor on the batch that a sample is in, nor on threads (DESIGN rules 2 and 9), to
-- the last bit. Every op on small shapes: ops_spec.lua. Whole runs in processes of their own: tests/crash.

local hd = require "hd"
local core = require "hd.core"
local nn, F, sampler = hd.nn, hd.nn.functional, hd.sampler

local function rng(seed) return hd.rng(seed) end

-- The same values in a larger tensor whose dimensions lie in the opposite order.
local function as_view(x)
  local larger, order, n = {}, {}, x:dim()
  for d = 1, n do larger[d], order[d] = x:size(n + 1 - d) + 3, n + 1 - d end
  local y = hd.zeros(larger):permute(order)
  for d = 1, n do y = y:narrow(d, 2, x:size(d)) end
  return y:copy_(x)
end

local LAYOUTS = {
  row = function(x) return x:contiguous():clone() end,
  last = function(x) return x:channels_last():clone() end,
  view = as_view,
}
local NAMES = { "row", "last", "view" }

local function with_threads(n, f)
  local before = hd.threads()
  hd.threads(n)
  local results = table.pack(pcall(f))
  hd.threads(before)
  return assert(table.unpack(results, 1, results.n)) and table.unpack(results, 2, results.n)
end

-- What f gives for x in a layout, and the gradients of x and `weights`.
local function evaluate(f, x, layout, weights)
  local input = LAYOUTS[layout](x):requires_grad_()
  for _, w in ipairs(weights) do
    if w:requires_grad_():grad() then w:grad():zero_() end
  end
  local y = f(input)
  local dy = hd.randn(y:shape(), { rng = rng(6) })
  y:backward(y:dim() > 0 and LAYOUTS[layout](dy) or dy)
  local out = { y:detach(), input:grad():clone() }
  for _, w in ipairs(weights) do out[#out + 1] = w:grad():clone() end
  return out
end

-- With HDLUA_GEMM=blas the last bits depend on memory order and on the size of the batch (OpenBLAS chooses its kernels
-- by them), on threads never.
local blas = os.getenv "HDLUA_GEMM" == "blas"

local function same_in_every_layout(f, x, weights)
  local expected
  for _, layout in ipairs(NAMES) do
    if blas then expected = nil end
    for _, threads in ipairs { 1, 3 } do
      local found = with_threads(threads, function() return evaluate(f, x, layout, weights or {}) end)
      expected = expected or found
      for i, y in ipairs(expected) do
        assert(y:equal(found[i]), ("%s differs: layout %s, %d threads"):format(
          ({ "the value", "the gradient" })[i] or "a weight's gradient", layout, threads))
      end
    end
  end
end

describe("no bit depends on memory order or threads:", function()
  local x = hd.randn({ 5, 33, 19, 23 }, { rng = rng(1) }) -- odd, and large enough for every method
  local w = hd.randn({ 33, 33, 3, 3 }, { rng = rng(2) }) * 0.1
  local m = hd.randn({ 29, 23 }, { rng = rng(3) })

  local functions = {
    { "conv2d", function(z) return F.conv2d(z, w, nil, { padding = 1 }) end, { w } },
    { "conv2d with stride", function(z) return F.conv2d(z, w, nil, { stride = 2 }) end, { w } },
    { "conv_transpose2d", function(z) return F.conv_transpose2d(z, w, nil, { stride = 2 }) end, { w } },
    { "group_norm", function(z) return F.group_norm(z, 3) end },
    { "group_norm_conv2d", function(z)
      return F.group_norm_conv2d(z, 3, nil, nil, nil, w, nil, nil, { padding = 1, activation = "silu" })
    end, { w } },
    { "group_norm of single channels", function(z) return F.group_norm(z, 33) end },
    { "layer_norm", function(z) return F.layer_norm(z, { 19, 23 }) end },
    { "rms_norm", function(z) return F.rms_norm(z, { 23 }) end },
    { "interpolate", function(z) return F.interpolate(z, { size = { 31, 13 }, mode = "bilinear" }) end },
    { "avg_pool2d", function(z) return F.avg_pool2d(z, 3, { stride = 2 }) end },
    { "max_pool2d", function(z) return F.max_pool2d(z, 3, { stride = 2 }) end },
    { "linear", function(z) return F.linear(z, m) end, { m } },
    { "matmul", function(z) return z:transpose(3, 4):matmul(z) end },
    { "attention", function(z) return F.scaled_dot_product_attention(z, z, z) end },
    { "mse_loss", function(z) return F.mse_loss(z, z * 0.5) end },
  }
  for _, name in ipairs { "sum", "mean", "var", "amax", "norm", "logsumexp", "cumsum", "softmax", "log_softmax" } do
    for d = 1, 4 do
      functions[#functions + 1] = { name .. " of dimension " .. d, function(z) return z[name](z, d) end }
    end
  end
  for _, case in ipairs(functions) do
    it(case[1], function() same_in_every_layout(case[2], x, case[3]) end)
  end

  it("a U-Net", function()
    core.seed(4)
    local net = nn.UNet { in_channels = 3, out_channels = 3, block_out_channels = { 32, 64 } }
    core.no_grad(function()
      for _, p in ipairs(net:parameters()) do p:add_(hd.randn(p:shape()) * 0.02) end
    end)
    local pictures = hd.randn({ 3, 3, 20, 16 }, { rng = rng(5) })
    same_in_every_layout(function(z) return net(z, hd.tensor { 1, 200, 900 }) end, pictures, net:parameters())
  end)
end)

describe("random numbers", function()
  it("of the first samples are the same in batches of 1, 3 and 16, on any number of threads", function()
    for _, draw in ipairs { hd.rand, hd.randn } do
      local all = draw({ 16, 3, 40, 44 }, { rng = rng(7) })
      for _, n in ipairs { 1, 3 } do
        for _, threads in ipairs { 1, 2, 8 } do
          local some = with_threads(threads, function() return draw({ n, 3, 40, 44 }, { rng = rng(7) }) end)
          assert.is_true(some:equal(all:narrow(1, 1, n)))
        end
      end
    end
  end)

  it("follow logical order in every memory order", function()
    local x = hd.zeros { 2, 3, 5, 7 }
    for _, like in ipairs { hd.rand_like, hd.randn_like } do
      local expected = like(x, { rng = rng(8) })
      for _, layout in ipairs(NAMES) do
        assert.is_true(like(LAYOUTS[layout](x), { rng = rng(8) }):equal(expected))
      end
    end
  end)
end)

describe("a sample", function()
  local set = hd.data.shapes { size = 8, n = 64 }

  local function random_models(H, opts)
    core.seed(2)
    local models = H:models(opts)
    core.no_grad(function()
      for _, p in ipairs(models:parameters()) do p:add_(hd.randn(p:shape()) * 0.05) end
    end)
    return models
  end

  local NEAR = blas and 1e-3 or 1e-5 -- networks with random weights enlarge what rounding leaves
  local function distance(a, b) return (a - b):norm():item() / b:norm():item() end

  local SAMPLERS = {
    { "heun", sampler.heun },
    { "heun with churn", function(denoise, x, sigmas, o)
      return sampler.heun(denoise, x, sigmas, { rng = o.rng, churn = 40 })
    end },
    { "ancestral", sampler.ancestral },
  }
  for _, variant in ipairs { { "cascade", false }, { "cascade", true }, { "flat", false } } do
    for _, one in ipairs(SAMPLERS) do
      it(("begins and goes on with its own noise in any batch: %s%s, %s"):format(variant[1],
        variant[2] and " with a shared network" or "", one[1]), function()
        local H = hd.hierarchy.images { size = 8, regime = variant[1] }:fit_stats(set)
        local models = random_models(H, { width = 8, share = variant[2] })
        local starts
        local function noting(denoise, z, sigmas, o)
          starts[#starts + 1] = z
          return one[2](denoise, z, sigmas, o)
        end
        local function draw(n, first, batch)
          starts = {}
          return H:sample(models, n, { seed = 5, steps = 3, t_aug = 0.1, sampler = noting, first = first,
            batch = batch }), starts
        end
        local all, noise = draw(16)
        for _, n in ipairs { 1, 3, 16 } do
          local y, same = draw(n)
          for i, z in ipairs(same) do assert.is_true(z:equal(noise[i]:narrow(1, 1, n))) end
          assert.is_true(distance(y, all:narrow(1, 1, n)) < NEAR)
        end
        assert.is_true(distance(draw(3, 7), all:narrow(1, 7, 3)) < NEAR)
        assert.is_true(distance(draw(16, 1, 5), all) < NEAR)
      end)
    end
  end
end)
