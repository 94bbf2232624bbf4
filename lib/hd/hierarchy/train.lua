-- hd/hierarchy/train.lua: the loss of a hierarchy: every level at a noise level of its own, given the levels it sees.
-- Gaussian levels: squared error of the prediction. Mask levels: cross-entropy of the masked tokens, weighted
-- with m'(t)/m(t), m the share of masks at time t (Sahoo et al. 2024, MDLM; 1/t at the linear rate m = t).
-- The regime says at which times the other levels are seen (clock.lua). In a cascade that is conditioning augmentation
-- (Ho et al. 2022): coarser levels with noise of random strength up to t_aug.

local check = require "hd.check"
local clock = require "hd.hierarchy.clock"
local core = require "hd.core"
local context = require "hd.hierarchy.context"
local functional = require "hd.nn.functional"
local prediction = require "hd.schedule.prediction"
local tokens = require "hd.hierarchy.tokens"

-- Standard normal noise like x, from the caller's generator.
local function noise_like(x, rng) return core.randn_like(x, { rng = rng }) end

-- Tokens [n, length] of which those where `hidden` is true are masks.
local function masked(level, z, hidden)
  return core.op.where(hidden, core.full({}, level.vocab + 1, { dtype = "i64" }), z)
end

-- Another level as a network sees it at times t (a list): noisy, the noise, and what the network is told.
local function noised(level, z, t, o)
  if level.kind == "mask" then
    local share = core.tensor(t)
    return masked(level, z, core.rand(z:shape(), { rng = o.rng }):lt(share:view(#t, 1))), share
  end
  local sigma = {}
  for i, value in ipairs(t) do sigma[i] = level.schedule:level(value) end
  local noise = core.tensor(sigma)
  return z + noise_like(z, o.rng) * prediction.per_sample(noise, z), noise
end

-- Everything that the network of a level sees beside its own z, which is at times t.
local function surroundings(self, models, level, z, t, o)
  local others = {}
  for i, name in ipairs(models._plan.sees[level.name]) do others[i] = self.by_name[name] end
  local times = clock.companions(self, level, t, others, o)
  local seen = { noisy = {}, sigmas = {}, times = {}, labels = o.labels }
  for _, other in ipairs(others) do
    local name = other.name
    seen.noisy[name], seen.sigmas[name] = noised(other, z[name], times[name], o)
    seen.times[name] = context.time_input(other, times[name])
  end
  return seen
end

-- Per sample: the mean of every entry [n, ...].
local function per_sample_mean(x) return x:reshape(x:size(1), -1):mean(2) end

local ERRORS = { mse = functional.mse_loss, huber = functional.huber_loss }

-- With learned uncertainty u: error / exp(u) + u, the error of each sample by itself. Source: Karras et al. 2024
-- (EDM2).
local function uncertain(models, level, errors, time)
  local u = models:uncertainty_of(level, time)
  return (errors / u:exp() + u):mean(), errors:mean()
end

-- The error of a level's prediction, and the same without its learned weight.
local function gaussian_loss(models, level, z, t, seen, o)
  local schedule = level.schedule
  local alpha, sigma = schedule:alpha_sigma(t)
  local eps = noise_like(z, o.rng)
  local a, s = prediction.per_sample(alpha, z), prediction.per_sample(sigma, z)
  local x = z * a + eps * s
  local c_in = prediction.input_scale(level.predict, schedule.scale, a, s, 1)
  local time = schedule:time_input(t)
  local F = context.predict(models, level, c_in == 1 and x or x * c_in, time, seen)
  local target = prediction.target(level.predict, z, eps, alpha, sigma, 1)
  if not (models.uncertainty or level.loss_weight) then return ERRORS[level.loss](F, target) end
  local errors = per_sample_mean(ERRORS[level.loss](F, target, { reduction = "none" }))
  if level.loss_weight then errors = errors * level.loss_weight(level.predict, alpha, sigma, 1) end
  if models.uncertainty then return uncertain(models, level, errors, time) end
  return errors:mean()
end

-- Times of n samples, one from each n-th of 0.01 to 1.
local function stratified_times(n, rng)
  local t = core.rand({ n }, { rng = rng, dtype = "f64" }):totable()
  for i = 1, n do t[i] = 0.01 + 0.99 * (i - 1 + t[i]) / n end
  return t
end

-- Shares of masks of a mask level at these times, and the weights of their cross-entropies.
local function mask_shares(level, times)
  local shares, weights = {}, {}
  for i, t in ipairs(times) do shares[i], weights[i] = tokens.share(level, math.max(1e-6, t)) end
  return shares, weights
end

-- Cross-entropy of the masked tokens of a level, weighted: nats [n, length] at each of its positions.
local function mask_errors(models, level, z, t, weights, seen, o)
  local hidden = core.rand(z:shape(), { rng = o.rng }):lt(core.tensor(t):view(#t, 1))
  local logits = context.logits(models, level, masked(level, z, hidden), core.tensor(t) * 1000, seen)
  local nll = -logits:log_softmax(3):gather(3, z:unsqueeze(3)):squeeze(3)
  return nll * (hidden:to "f32" * core.tensor(weights):view(#t, 1))
end

-- Their mean, in nats per token of the level.
local function mask_loss(models, level, z, t, weights, seen, o)
  local errors = mask_errors(models, level, z, t, weights, seen, o)
  if models.uncertainty then return uncertain(models, level, per_sample_mean(errors), core.tensor(t) * 1000) end
  return errors:mean()
end

-- The loss of one level, and the same without its learned weight.
local function level_loss(self, models, level, z, o)
  local own = z[level.name]
  if level.kind == "mask" then
    local t, weights = mask_shares(level, stratified_times(own:size(1), o.rng))
    return mask_loss(models, level, own, t, weights, surroundings(self, models, level, z, t, o), o)
  end
  local t = level.schedule:draw(own:size(1), { rng = o.rng, stratified = true })
  local seen = surroundings(self, models, level, z, t, o)
  return gaussian_loss(models, level, own, t, seen, o)
end

-- A batch must be of the shape that the hierarchy was declared for or has seen first.
local function check_batch(where, self, x)
  local shape = check.arg(where, "x", x, "tensor"):shape()
  local got = table.concat(shape, ",", 2)
  if self.shape and (#shape == 0 or got ~= table.concat(self.shape, ",")) then
    check.fail(where, "x has the wrong shape: got [%s], expected [n,%s]", table.concat(shape, ","),
      table.concat(self.shape, ","))
  end
end

-- The first samples of a batch (batches are shuffled): a level's share of them, at least one.
local function share_of(level, z, o)
  local n = z[level.name]:size(1)
  local few = math.max(1, math.floor(level.batch_share * n + 0.5))
  if few >= n then return z, o end
  local part, own = {}, {}
  for name, x in next, z do part[name] = x:narrow(1, 1, few) end -- order free: separate keys
  for key, value in next, o do own[key] = value end -- order free: a copy
  own.labels = o.labels and o.labels:narrow(1, 1, few)
  return part, own
end

-- Labels of which a share is none: what classifier-free guidance compares with. Source: Ho and Salimans 2022.
local function dropped(models, labels, o)
  if not labels then return nil end
  local none = core.full({}, models.classes + 1, { dtype = "i64" })
  local hidden = core.rand({ labels:size(1) }, { rng = o.rng }):lt(o.label_dropout)
  return core.op.where(hidden, none, labels)
end

-- Nats [n] of a level, each sample at a time of its own from the k-th of o.times parts of 0 to 1.
local function bound_at(self, models, level, z, k, o)
  local own = z[level.name]
  local times = core.rand({ own:size(1) }, { rng = o.rng, dtype = "f64" }):totable()
  for i, u in ipairs(times) do times[i] = (k - 1 + u) / o.times end
  local t, weights = mask_shares(level, times)
  local errors = mask_errors(models, level, own, t, weights, surroundings(self, models, level, z, t, o), o)
  return errors:reshape(#t, -1):to("f64"):sum(2)
end

return function(Hierarchy)
  -- The unsplit x as the one level of the flat regime.
  function Hierarchy:flat_level()
    local finest = self.levels[#self.levels] -- the grid of x is the finest level's
    if finest.kind == "mask" then check.fail("hierarchy", "the flat regime is for levels of kind gaussian") end
    return { name = "flat", kind = "gaussian", schedule = finest.schedule, predict = finest.predict, loss = finest.loss,
      context = {}, steps = finest.steps, weight = 1, batch_share = 1, width = 1, index = 1, sampler = finest.sampler,
      guidance = finest.guidance, mean_bypass = finest.mean_bypass, loss_weight = finest.loss_weight }
  end

  -- Labels [n] of classes 1 to models.classes, or nil.
  function Hierarchy.check_labels(_, where, models, labels, n)
    if labels == nil then return nil end
    if not models or not models.classes then
      check.fail(where, "labels were given, but the models know no classes: use H:models{ classes = ... }")
    end
    if math.type(labels) == "integer" then labels = core.full({ n }, labels, { dtype = "i64" }) end
    if not check.is_tensor(labels) or labels:dim() ~= 1 or labels:size(1) ~= n or labels:dtype():sub(1, 1) == "f" then
      check.fail(where, "labels is wrong: got %s, expected an integer or whole numbers [%d]", check.show(labels), n)
    end
    local low, high = labels:amin():item(), labels:amax():item()
    if low < 1 or high > models.classes then
      check.fail(where, "labels is wrong: got %d to %d, expected 1 to %d", low, high, models.classes)
    end
    return labels:to "i64"
  end

  --- The loss of a batch: the weighted sum of the levels' losses, and each of them as a number.
  ---@param models hd.hierarchy.Models
  ---@param x hd.Tensor  [n, ...]
  ---@param opts? table  regime (the models'), t_aug, rng, levels (names of the levels to train; all that the models
  ---  have), labels ([n] or an integer, 1 to the models' classes), label_dropout (share of the labels hidden, 0.1)
  ---@return hd.Tensor loss            0-d
  ---@return table<string, number> parts  without weights
  function Hierarchy:loss(models, x, opts)
    self:check_models("H:loss", models)
    local o = check.options("H:loss", opts, {
      { "regime", self.regimes, models.regime or self.regime }, { "t_aug", "number", self.t_aug }, { "rng", "any" },
      { "levels", "table" }, { "labels", "integer|tensor" }, { "label_dropout", "number", 0.1 },
    })
    check_batch("H:loss", self, x)
    self:check_regime("H:loss", models, o.regime)
    o.clocks, o.lag = o.regime == self.regime and self.clocks or nil, self.lag
    o.labels = dropped(models, self:check_labels("H:loss", models, o.labels, x:size(1)), o)
    local levels, z
    if o.regime == "flat" then
      levels = { self:flat_level() }
      z = { flat = core.no_grad(function() return self:standardise("flat", x) end) }
    else
      levels = {}
      local names = o.levels or (models.share and self:level_names()) or models._plan.nets
      for i, name in ipairs(names) do levels[i] = self:level(name) end
      z = core.no_grad(function() return self:standardised(x) end)
    end
    local total, parts = nil, {}
    for _, level in ipairs(levels) do
      local loss, plain = level_loss(self, models, level, share_of(level, z, o))
      parts[level.name] = (plain or loss):item()
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

  --- The bound on -ln p(x) of a hierarchy of levels of kind mask: for each sample the sum over all positions and
  --- levels, by as many times from 0 to 1 as wanted, one from each equal part. The coarser levels of a cascade are seen
  --- as they are, so that the levels' bounds add up to that of x. Source: Sahoo et al. 2024 (MDLM), equation 10.
  ---@param models hd.hierarchy.Models
  ---@param x hd.Tensor  [n, ...]
  ---@param opts? table  times (64), regime (the models'; not "free", which has no order), rng, labels
  ---@return hd.Tensor nats  f64 [n]
  ---@return table<string, number> parts  its mean by level
  function Hierarchy:bound(models, x, opts)
    self:check_models("H:bound", models)
    local o = check.options("H:bound", opts, {
      { "times", "integer", 64 }, { "regime", self.regimes, models.regime }, { "rng", "any" },
      { "labels", "integer|tensor" },
    })
    if o.times < 1 then check.fail("H:bound", "times is wrong: got %d, expected at least 1", o.times) end
    check_batch("H:bound", self, x)
    self:check_regime("H:bound", models, o.regime)
    if o.regime == "free" or o.regime == "flat" then
      check.fail("H:bound", "the regime is wrong: got '%s', expected one with a clock for the levels", o.regime)
    end
    local _ <close> = core.no_grad()
    o.t_aug, o.lag, o.clocks = 0, self.lag, o.regime == self.regime and self.clocks or nil
    o.labels = self:check_labels("H:bound", models, o.labels, x:size(1))
    local z, total, parts = self:standardised(x), core.zeros({ x:size(1) }, { dtype = "f64" }), {}
    for _, level in ipairs(self.levels) do
      if level.kind ~= "mask" then
        check.fail("H:bound", "level '%s' is of kind %s: expected mask", level.name, level.kind)
      end
      local sum = core.zeros({ x:size(1) }, { dtype = "f64" })
      for k = 1, o.times do
        local scope <close> = core.scope()
        sum = scope:keep(sum + bound_at(self, models, level, z, k, o) * (1 / o.times))
      end
      total, parts[level.name] = total + sum, sum:mean():item()
    end
    return total, parts
  end
end
