-- hd/tool/bench/operations.lua: single operations on the shapes that the reference models have or that a user knows.
-- Called by: child.lua, bench.lua.

local hd = require "hd"
local F = hd.nn.functional

local operations = {}

-- Images in the layout that they have inside a network: channels-last.
local function images(n, c, h) return hd.randn(n, h, h, c):permute(1, 4, 2, 3) end

-- Convolution -----------------------------------------------------------------------------------------------------
-- batch, channels in and out, extent, kernel, stride; padding is half of the kernel, and there is no bias

local CONVOLUTIONS = {
  "conv_16_3_64_32_3_1", "conv_16_64_64_32_3_1", "conv_16_128_128_16_3_1", "conv_16_256_256_8_3_1",
  "conv_64_32_32_32_3_1", "conv_16_64_128_32_3_2", "conv_16_128_256_16_1_1", "conv_8_32_32_64_3_1",
  "conv_4_256_256_32_3_1",
}

local function convolution(name)
  local sizes = {}
  for number in name:gmatch "%d+" do sizes[#sizes + 1] = math.tointeger(number) end
  local n, from, to, h, k, s = table.unpack(sizes)
  local opts, out = { stride = s, padding = k // 2 }, (h + 2 * (k // 2) - k) // s + 1
  local gflop = 2 * n * to * out * out * from * k * k / 1e9
  local config = { N = n, Cin = from, Cout = to, H = h, kernel = k, stride = s }
  local list = {}
  local function add(part, step, before)
    list[#list + 1] = { name = name .. "/" .. part, config = config, step = step, before = before, gflop = gflop }
  end
  local x, dy = images(n, from, h), images(n, to, out)
  local w = hd.nn.Conv2d(from, to, k, { bias = false }).weight -- in the layer's own layout
  local function forward() return F.conv2d(x, w, nil, opts) end
  add("fwd", function() hd.no_grad(forward) end)
  -- The gradient of one operand alone: forward is made anew before each step, untimed.
  local function add_backward(part, operand, other)
    local y
    add(part, function() y:backward(dy) end, function()
      other:requires_grad_(false)
      operand:requires_grad_():set_grad(nil)
      y = forward()
    end)
  end
  add_backward("bwd_data", x, w)
  add_backward("bwd_weight", w, x)
  return list
end

-- Others ----------------------------------------------------------------------------------------------------------

local MILLIONS_10 = 10000000

-- With its gradients where `gradients` is set: of the given tensors for a given gradient of the result.
local function forward_backward(forward, inputs, gradients)
  if not gradients then return function() hd.no_grad(forward) end end
  local dy = forward():detach():clone():normal_()
  for _, x in ipairs(inputs) do x:requires_grad_() end
  return function()
    for _, x in ipairs(inputs) do x:set_grad(nil) end
    forward():backward(dy)
  end
end

local function group_norm(gradients)
  local x, w, b = images(16, 128, 32), hd.ones(128), hd.zeros(128)
  return forward_backward(function() return F.group_norm(x, 32, w, b, { activation = "silu" }) end, { x, w, b },
    gradients)
end

local function softmax(gradients)
  local x = hd.randn(64, 256, 256)
  return forward_backward(function() return x:softmax(3) end, { x }, gradients)
end

-- One optimizer step on so many tensors with 10 million numbers together.
local function optimizer_step(kind, tensors)
  local list = {}
  for i = 1, tensors do
    list[i] = hd.randn(MILLIONS_10 // tensors):requires_grad_()
    list[i]:set_grad(hd.randn(MILLIONS_10 // tensors))
  end
  local optimizer = hd.optim[kind](list, { lr = 1e-3 })
  return function() optimizer:step() end
end

local function product(n)
  local a, b = hd.randn(n, n), hd.randn(n, n)
  return function() return a:matmul(b) end
end

-- name, function that makes the step, bytes that must move at least, GFLOP
local IMAGE, SCORES = 16 * 128 * 32 * 32 * 4, 64 * 256 * 256 * 4
local OTHERS = {
  { "gn_silu_fwd", function() return group_norm(false) end, 2 * IMAGE },
  { "gn_silu_fwd_bwd", function() return group_norm(true) end, 5 * IMAGE },
  { "softmax_fwd", function() return softmax(false) end, 2 * SCORES },
  { "softmax_fwd_bwd", function() return softmax(true) end, 5 * SCORES },
  { "adam", function() return optimizer_step("Adam", 100) end, 28 * MILLIONS_10 },
  { "adamw_10M", function() return optimizer_step("AdamW", 1) end, 28 * MILLIONS_10 },
  { "randn_10M", function()
    local x = hd.zeros(MILLIONS_10)
    return function() x:normal_() end
  end, 4 * MILLIONS_10 },
  { "randn_10M_alloc", function() return function() return hd.randn(MILLIONS_10) end end, 4 * MILLIONS_10 },
  { "sum_10M", function()
    local x = hd.randn(MILLIONS_10)
    return function() return x:sum():item() end
  end, 4 * MILLIONS_10 },
  { "sgemm_1024", function() return product(1024) end, nil, 2 * 1024 ^ 3 / 1e9 },
  { "sgemm_2048", function() return product(2048) end, nil, 2 * 2048 ^ 3 / 1e9 },
}

operations.convolutions, operations.names = CONVOLUTIONS, {}
local by_name = {}
for i, o in ipairs(OTHERS) do operations.names[i], by_name[o[1]] = o[1], o end

--- Whether there is an operation of this name; any conv_N_Cin_Cout_H_k_s is one.
---@param name string
---@return boolean
function operations.has(name)
  return by_name[name] ~= nil or name:find "^conv_%d+_%d+_%d+_%d+_%d+_%d+$" ~= nil
end

--- What is to be timed for a name: one entry, or three for a convolution.
---@param name string
---@return table[]  name, step(), before() untimed, bytes, gflop
function operations.prepare(name)
  if not by_name[name] then return convolution(name) end
  local _, make, bytes, gflop = table.unpack(by_name[name], 1, 4)
  return { { name = name, step = make(), bytes = bytes, gflop = gflop } }
end

return operations
