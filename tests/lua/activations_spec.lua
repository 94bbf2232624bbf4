-- tests/lua/activations_spec.lua: hd.activations "bf16": half of the memory, gradients of rounded numbers, and the same
-- bits whoever holds the tensors and however often the collector runs.

local hd = require "hd"
local core = require "hd.core"
local nn = hd.nn

local function message(fn, ...)
  local ok, text = pcall(fn, ...)
  assert.is_false(ok)
  return tostring(text)
end

-- The nearest number of 8 significant bits, from the bits of an f32.
local function rounded(x)
  local values = x:reshape(-1):totable()
  for i, v in ipairs(values) do
    local bits = string.unpack("<I4", string.pack("<f", v))
    bits = bits + 0x7fff + (bits >> 16 & 1) & 0xffff0000
    values[i] = string.unpack("<f", string.pack("<I4", bits))
  end
  return hd.tensor(values):view(table.unpack(x:shape()))
end

local function leaf(...) return hd.randn({ ... }, { rng = hd.rng(1) }):requires_grad_() end

-- Let what only the tape holds be packed.
local function collect()
  collectgarbage()
  collectgarbage()
end

local function live() return hd.memory().live end

describe("activations in bf16", function()
  before_each(function() hd.activations "bf16" end)
  after_each(function() hd.activations "f32" end)

  it("are chosen by name, and part of what results depend on", function()
    assert.are.equal("bf16", hd.activations())
    assert.are.equal("bf16", core.versions().activations)
    assert.are.equal("f32", hd.activations "f32")
    assert.matches("activations: unknown type: got 'f16', expected 'f32' or 'bf16'", message(hd.activations, "f16"))
  end)

  it("are read rounded, held by the script or not", function()
    local x = leaf(64, 65)
    local h = x * 1
    local expected = rounded(h) * 2
    h:square():sum():backward()
    assert.is_true(x:grad():equal(expected))
    x:set_grad(nil)
    h = (x * 1):square():sum()
    collect()
    h:backward()
    assert.is_true(x:grad():equal(expected))
  end)

  it("take half of the memory, shared by all that saved them", function()
    local x = leaf(256, 512)
    collect()
    local before = live()
    local h = x * 1
    local y = { h:square(), h:transpose(1, 2):square(), h:narrow(2, 3, 7):square(), h * h }
    for i = 1, #y do y[i] = y[i]:sum() end
    collect()
    assert.is_true(live() - before > 2 ^ 19)
    h = nil -- luacheck: ignore 311
    collect()
    local left = live() - before
    assert.is_true(left >= 2 ^ 18 and left < 2 ^ 18 + 2 ^ 16, ("%d bytes"):format(left))
    local expected = rounded(x) * 6
    expected:narrow(2, 3, 7):add_(rounded(x):narrow(2, 3, 7) * 2)
    local total = y[1] + y[2] + y[3] + y[4]
    total:backward()
    assert.is_true((x:grad() - expected):abs():max():item() < 1e-5)
  end)

  it("leave parameters, small tensors, f64 and what must be exact as they are", function()
    local weight, x = leaf(128, 64), leaf(70, 128)
    x:matmul(weight):sum():backward()
    assert.is_true((x:grad() - weight:detach():sum(2)):abs():max():item() < 1e-5)
    local function gradient_of(fn, ...)
      local a = leaf(...)
      fn(a * 1):sum():backward()
      return a:grad(), a:detach()
    end
    local g, a = gradient_of(function(h) return h:square() end, 10, 20)
    assert.is_true(g:equal(a * 2))
    g, a = gradient_of(function(h) return h:sin() end, 100, 200)
    assert.is_true(g:equal(a:cos()))
    g = gradient_of(function(h) return h:amax(2) end, 100, 200)
    assert.are.equal(100, g:sum():item())
    a = hd.randn(64, 64, { dtype = "f64" }):requires_grad_()
    local h = a * 1
    h:square():sum():backward()
    assert.is_true(a:grad():equal(a:detach() * 2))
  end)

  it("are exact where another operation needs them so", function()
    local x = leaf(64, 128)
    local h = x * 1
    local y = h:sin():sum() + h:square():sum()
    h = nil -- luacheck: ignore 311
    collect()
    y:backward()
    local exact = x:detach()
    assert.is_true((x:grad() - (exact:cos() + rounded(exact) * 2)):abs():max():item() < 1e-6)
  end)

  it("still notice a change in place", function()
    local x = leaf(64, 128)
    local h = x * 1
    local y = h:square():sum()
    h:add_(1)
    h = nil -- luacheck: ignore 311
    collect()
    assert.matches("square needs for its gradient was changed in place", message(y.backward, y))
  end)

  it("stay f32, with the same gradient, where there is no memory for packing", function()
    local x = leaf(64, 128)
    local y = (x * 1):square():sum()
    core.fail_allocations("native", 1, 1 << 60)
    collect()
    local refused = core.fail_allocations "native"
    assert.is_true(refused > 0)
    y:backward()
    assert.is_true(x:grad():equal(rounded(x) * 2))
  end)

  it("give backward another try when memory is short", function()
    local x = leaf(64, 128)
    local y = (x * 1):square():sum()
    collect()
    for first = 1, 8 do
      core.fail_allocations("native", first, 1)
      local ok = pcall(y.backward, y)
      core.fail_allocations "native"
      if ok then break end
      x:set_grad(nil)
      y = (x * 1):square():sum()
      collect()
    end
    assert.is_true(x:grad():equal(rounded(x) * 2))
  end)
end)

-- A U-Net's step: its loss, gradients and peak of activations.
local function small_unet(opts)
  hd.seed(1)
  return nn.UNet { block_out_channels = { 16, 32 }, layers_per_block = 1, norm_num_groups = 4, dropout = 0.1,
    down_block_types = { "DownBlock2D", "AttnDownBlock2D" }, gradient_checkpointing = opts and opts.recompute }
end

local function step(net, x, between)
  local results = {}
  net:zero_grad()
  hd.seed(7)
  collect()
  local loss = net(x, 5):square():mean()
  if between then between() end
  hd.reset_peak_memory()
  loss:backward()
  local peak = hd.memory().peak_kinds.activations
  results[1] = loss:detach()
  for _, p in ipairs(net:parameters()) do results[#results + 1] = p:grad():clone() end
  return results, peak
end

local function assert_same_bits(expected, got)
  for i, e in ipairs(expected) do assert.is_true(e:equal(got[i]), "result " .. i .. " differs") end
end

local function distance(a, b)
  local difference, length = 0, 0
  for i = 2, #a do
    difference = difference + (a[i] - b[i]):square():sum():item()
    length = length + a[i]:square():sum():item()
  end
  return math.sqrt(difference / length)
end

describe("a U-Net with activations in bf16", function()
  local x = hd.randn(8, 3, 32, 34, { rng = hd.rng(3) })
  after_each(function() hd.activations "f32" end)

  it("has near gradients for about half of the memory", function()
    local net = small_unet()
    local exact, all = step(net, x, collect)
    hd.activations "bf16"
    local near, half = step(net, x, collect)
    hd.activations "f32"
    local again = step(net, x, collect)
    assert.is_true(near[1]:equal(exact[1]))
    assert_same_bits(exact, again)
    local error = distance(exact, near)
    assert.is_true(error > 1e-5 and error < 1e-2, ("relative error %g"):format(error))
    assert.is_true(half < 0.6 * all, ("%g of the memory"):format(half / all))
  end)

  it("has the same bits at any number of threads and whenever tensors are collected", function()
    local net, threads = small_unet(), hd.threads()
    hd.activations "bf16"
    local expected = step(net, x, collect)
    collectgarbage "stop"
    local held = step(net, x)
    collectgarbage "restart"
    assert_same_bits(expected, held)
    hd.threads(threads == 3 and 2 or 3)
    assert_same_bits(expected, (step(net, x, collect)))
    hd.threads(threads)
  end)

  it("can be computed again as well", function()
    local net = small_unet()
    local exact, all = step(net, x, collect)
    net:enable_gradient_checkpointing()
    local _, fewer = step(net, x, collect)
    hd.activations "bf16"
    local near, least = step(net, x, collect)
    assert.is_true(distance(exact, near) < 1e-2)
    assert.is_true(fewer < all and least < fewer)
    local held = step(net, x)
    assert_same_bits(near, held)
  end)
end)
