-- hd/hierarchy/train.lua: the loss of a hierarchy: every level at a noise level of its own, given coarser ones.
-- Gaussian levels: squared error of the prediction. Mask levels: cross-entropy of the masked tokens, weighted
-- with 1/t (Sahoo et al. 2024, MDLM, with the log-linear rate: a token is masked with chance t).
-- Conditioning augmentation (Ho et al. 2022): coarser levels are seen with noise of random strength up to t_aug.

local check = require "hd.check"
local core = require "hd.core"
local context = require "hd.hierarchy.context"
local prediction = require "hd.schedule.prediction"

-- Standard normal noise like x, from the caller's generator.
local function noise_like(x, rng) return core.randn_like(x, { rng = rng }) end

-- Mean squared error of a level's prediction.
local function gaussian_loss(models, level, z, seen, augmented, o)
  local n, schedule = z:size(1), level.schedule
  local t = schedule:draw(n, { rng = o.rng, stratified = true })
  local alpha, sigma = schedule:alpha_sigma(t)
  local eps = noise_like(z, o.rng)
  local a, s = prediction.per_sample(alpha, z), prediction.per_sample(sigma, z)
  local x = z * a + eps * s
  local c_in = prediction.input_scale(level.predict, schedule.scale, a, s, 1)
  local F = context.predict(models, level, c_in == 1 and x or x * c_in, schedule:time_input(t), seen, augmented)
  return core.op.mse_loss(F, prediction.target(level.predict, z, eps, alpha, sigma, 1))
end

-- Coarser levels with noise: sigma = s, one s per sample; tokens are masked with chance s.
local function augmented_context(self, level, z, o)
  local names, seen = level.context, {}
  if #names == 0 then return seen, nil end
  local n = z[names[1]]:size(1)
  local s = core.rand({ n }, { rng = o.rng }) * o.t_aug
  for _, name in ipairs(names) do
    local x = z[name]
    if self.by_name[name].kind == "mask" then
      local hidden = core.rand(x:shape(), { rng = o.rng }):lt(s:view(n, 1))
      seen[name] = core.op.where(hidden, core.full({}, self.by_name[name].vocab + 1, { dtype = "i64" }), x)
    else
      seen[name] = x + noise_like(x, o.rng) * prediction.per_sample(s, x)
    end
  end
  return seen, s * 1000
end

-- Cross-entropy of the masked tokens of a level, in nats per token of the level.
local function mask_loss(models, level, z, seen, o)
  local n, length = z:size(1), z:size(2)
  local u = (core.rand({ n }, { rng = o.rng }) + core.arange(0, n - 1, { dtype = "f32" })) * (1 / n)
  local t = u * 0.99 + 0.01
  local hidden = core.rand({ n, length }, { rng = o.rng }):lt(t:view(n, 1))
  local tokens = core.op.where(hidden, core.full({}, level.vocab + 1, { dtype = "i64" }), z)
  local logits = context.logits(models, level, tokens, t * 1000, seen)
  local nll = -logits:log_softmax(3):gather(3, z:unsqueeze(3)):squeeze(3)
  local weight = hidden:to "f32" * (1 / t):view(n, 1)
  return (nll * weight):mean()
end

local function level_loss(self, models, level, z, o)
  local seen, augmented = augmented_context(self, level, z, o)
  if level.kind == "mask" then return mask_loss(models, level, z[level.name], seen, o) end
  return gaussian_loss(models, level, z[level.name], seen, augmented, o)
end

-- A batch must be of the shape that the hierarchy was declared for or has seen first.
local function check_batch(self, x)
  local shape = check.arg("H:loss", "x", x, "tensor"):shape()
  local got = table.concat(shape, ",", 2)
  if self.shape and (#shape == 0 or got ~= table.concat(self.shape, ",")) then
    check.fail("H:loss", "x has the wrong shape: got [%s], expected [n,%s]", table.concat(shape, ","),
      table.concat(self.shape, ","))
  end
end

return function(Hierarchy)
  -- The unsplit x as the one level of the flat regime.
  function Hierarchy:flat_level()
    local finest = self.levels[#self.levels] -- the grid of x is the finest level's
    if finest.kind == "mask" then check.fail("hierarchy", "the flat regime is for levels of kind gaussian") end
    return { name = "flat", kind = "gaussian", schedule = finest.schedule, predict = finest.predict,
      context = {}, steps = finest.steps, weight = 1, index = 1, sampler = finest.sampler }
  end

  --- The loss of a batch: the weighted sum of the levels' losses, and each of them as a number.
  ---@param models hd.hierarchy.Models
  ---@param x hd.Tensor  [n, ...]
  ---@param opts? table  regime (the models'), t_aug, rng, levels (names of the levels to train; all)
  ---@return hd.Tensor loss            0-d
  ---@return table<string, number> parts
  function Hierarchy:loss(models, x, opts)
    self:check_models("H:loss", models)
    local o = check.options("H:loss", opts, {
      { "regime", self.regimes, models.regime or self.regime }, { "t_aug", "number", self.t_aug }, { "rng", "any" },
      { "levels", "table" },
    })
    check_batch(self, x)
    local levels, z
    if o.regime == "flat" then
      levels = { self:flat_level() }
      z = { flat = core.no_grad(function() return self:standardise("flat", x) end) }
    else
      levels = {}
      for i, name in ipairs(o.levels or self:level_names()) do levels[i] = self:level(name) end
      z = core.no_grad(function() return self:standardised(x) end)
    end
    local total, parts = nil, {}
    for _, level in ipairs(levels) do
      local loss = level_loss(self, models, level, z, o)
      parts[level.name] = loss:item()
      if level.weight ~= 1 then loss = loss * level.weight end
      total = total and total + loss or loss
    end
    return total, parts
  end

  -- Every level of x in standardised coordinates.
  function Hierarchy:standardised(x)
    local z = self:split(x)
    local out = {}
    for _, level in ipairs(self.levels) do out[level.name] = self:standardise(level.name, z[level.name]) end
    return out
  end
end
