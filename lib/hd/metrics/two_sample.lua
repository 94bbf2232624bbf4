-- hd/metrics/two_sample.lua: can a classifier tell two sets apart? Calls: core, hd.nn, hd.optim.
-- Source: Lopez-Paz and Oquab 2017.

local core = require "hd.core"
local nn = require "hd.nn"
local optim = require "hd.optim"

local HIDDEN, STEPS = 32, 150

-- Weights of a net with one hidden layer, drawn from a generator of its own.
local function new_net(d, rng)
  local function weight(rows, columns)
    return nn.Parameter(core.randn({ rows, columns }, { rng = rng }) * (1 / math.sqrt(columns)))
  end
  return { weight(HIDDEN, d), nn.Parameter(core.zeros { HIDDEN }), weight(2, HIDDEN), nn.Parameter(core.zeros { 2 }) }
end

local function logits(net, x)
  return core.op.linear(core.op.linear(x, net[1], net[2]):relu(), net[3], net[4])
end

local function train(x, labels, rng)
  local net = new_net(x:size(2), rng)
  local opt = optim.AdamW(net, { lr = 0.01, weight_decay = 0.1 })
  for _ = 1, STEPS do
    local _ <close> = core.scope()
    opt:zero_grad()
    nn.functional.cross_entropy(logits(net, x), labels):backward()
    opt:step()
  end
  return net
end

-- Rows of both sets as one, with labels 1 and 2.
local function together(a, b)
  local labels = core.op.cat({ core.full({ a:size(1) }, 1, { dtype = "i64" }),
    core.full({ b:size(1) }, 2, { dtype = "i64" }) }, 1)
  return core.op.cat({ a, b }, 1), labels
end

-- Halves of x in random order.
local function halves(x, n, seed)
  local order = core.permutation(x:size(1), seed)
  local list = core.tensor(table.move(order, 1, n, 1, {}), { dtype = "i64" })
  local mixed = x:index_select(1, list)
  return { mixed:narrow(1, 1, n // 2), mixed:narrow(1, n // 2 + 1, n - n // 2) }
end

--- Trained on one half and asked about the other, and the other way round: how many answers were right, of how many.
---@param real hd.Tensor  [n, d]
---@param made hd.Tensor  [m, d]
---@param seed integer
---@return integer right
---@return integer asked
return function(real, made, seed)
  local n, right, asked = math.min(real:size(1), made:size(1)), 0, 0
  local a, b = halves(real, n, seed), halves(made, n, seed + 1)
  for fold = 1, 2 do
    local x, labels = together(a[fold], b[fold])
    local mean, std = x:mean(1), x:std(1):clamp(1e-6)
    local net = train((x - mean) / std, labels, core.rng(seed, fold))
    local asked_x, truth = together(a[3 - fold], b[3 - fold])
    local said = core.no_grad(function() return logits(net, (asked_x - mean) / std):argmax(2) end)
    right, asked = right + said:eq(truth):sum():item(), asked + truth:size(1)
  end
  return right, asked
end
