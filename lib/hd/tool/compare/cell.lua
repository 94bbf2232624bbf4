-- hd/tool/compare/cell.lua: one cell: train an arm with a seed and measure; with the first seed also on the way, and at
-- the end with fewer and more sampling steps. Called by: compare.lua.

local hd = require "hd"
local trainer = require "hd.tool.study.trainer"
local metrics = hd.metrics

local cell = {}

--- The columns of the .tsv file.
cell.columns = {
  "arm", "seed", "point", "share", "parameters", "steps", "minutes", "tflop", "sample_steps", "calls", "sample_gflop",
  "sample_seconds", "samples", "frechet", "frechet_low", "frechet_high", "kernel", "kernel_low", "kernel_high",
  "precision", "recall", "two_sample", "sliced", "spectrum", "mean_shift", "bands", "copies", "levels", "chain_gap",
  "recognised", "features", "settings",
  texts = { arm = true, point = true, bands = true, levels = true, chain_gap = true, features = true, settings = true },
  places = { "seed", "point", "share", "sample_steps" },
}

-- Measuring -------------------------------------------------------------------------------------------------------

local function joined(list, form)
  local words = {}
  for i, v in ipairs(list) do words[i] = form:format(v) end
  return table.concat(words, " ")
end

local function largest(list)
  local most = 0
  for _, v in ipairs(list) do most = math.max(most, math.abs(v)) end
  return most
end

--- Every figure of made pictures beside real ones.
---@param study table  H, real, of_real (features), features, resamples
---@param made hd.Tensor
---@return table record
function cell.figures(study, made)
  local o, r = { resamples = study.resamples }, { samples = made:size(1), features = study.features.name }
  local of_made = study.features(made)
  local found
  r.frechet, found = metrics.frechet(study.of_real, of_made, o)
  r.frechet_low, r.frechet_high = found.low, found.high
  r.kernel, found = metrics.kernel(study.of_real, of_made, o)
  r.kernel_low, r.kernel_high = found.low, found.high
  r.precision, r.recall = table.unpack(metrics.precision_recall(study.of_real, of_made))
  r.two_sample = metrics.two_sample(study.of_real, of_made)
  r.sliced = metrics.sliced_wasserstein(study.real, made)
  r.spectrum = metrics.spectrum_distance(study.real, made)
  r.mean_shift = largest(metrics.mean_shift(study.real, made))
  r.bands = joined(metrics.band_energy(study.real, made), "%.3f")
  local of_levels, words = metrics.levels(study.H, study.real, made), {}
  for i, name in ipairs(study.H:level_names()) do words[i] = ("%s:%.4f"):format(name, of_levels[name].sliced) end
  r.levels = table.concat(words, " ")
  return r
end

-- Options of H:sample for n pictures; by class each class in turn.
local function sampling(study, n, steps, seed)
  local labels = study.classes and hd.arange(0, n - 1) % study.classes + 1 or nil
  return { seed = seed, steps = steps, labels = labels, guidance = study.guidance }
end

-- The share of pictures in which the classifier behind the features sees the class that was asked for.
local function recognised(study, made, labels)
  if not labels or study.features.classes ~= study.classes then return nil end
  return study.features:classify(made):eq(labels):to "f64":mean():item()
end

local function sampled(study, arm, models, steps, seed)
  local start, opts = hd.clock(), sampling(study, study.samples, steps, 1000 + seed)
  local made = study.H:sample(models, study.samples, opts):clamp(-1, 1)
  local record = { sample_seconds = hd.clock() - start, recognised = recognised(study, made, opts.labels) }
  for name, value in next, cell.figures(study, made) do record[name] = value end -- order free: separate keys
  record.sample_steps, record.calls = steps, arm.sampling.calls(steps)
  record.sample_gflop = arm.sampling.flops(steps) * 1e-9
  return record, made
end

-- "colours:0.012 textures:-0.003" of a cascade; in the other regimes no level follows another one that is finished.
local function chain_gaps(study, arm, models, seed)
  if arm.regime ~= "cascade" then return nil end
  local some = study.real:narrow(1, 1, metrics.least)
  local opts = sampling(study, metrics.least, arm.sample_steps, seed)
  local gaps = metrics.chain_gap(study.H, models, some, { seed = seed, sample = opts })
  local words = {}
  for _, name in ipairs(study.H:level_names()) do
    if gaps[name] then words[#words + 1] = ("%s:%.4f"):format(name, gaps[name].gap) end
  end
  return table.concat(words, " ")
end

-- The cell --------------------------------------------------------------------------------------------------------

--- Run a cell.
---@param study table   what all cells share
---@param arm table     of compare.lua
---@param seed integer
---@return table[] records  the points, the one at the end last
---@return hd.Tensor made   pictures of the end
function cell.run(study, arm, seed)
  local state, records = trainer.new(study, arm, seed), {}
  local function add(point, share, steps)
    local record, made = sampled(study, arm, state.ema.model, steps, seed)
    record.arm, record.seed, record.point, record.share = arm.name, seed, point, share
    record.parameters, record.steps, record.minutes = arm.parameters, state.steps, state.seconds / 60
    record.tflop = state.steps * arm.step_flops * 1e-12
    records[#records + 1] = record
    study.say(("%s, seed %d: %s %.3g of the budget, %d steps, %.2f min, %d sampling steps: Fréchet %.2f"):format(
      arm.name, seed, point, share, state.steps, record.minutes, steps, record.frechet))
    return record, made
  end
  local points = seed == study.first_seed and study.points or 1
  for _, share in ipairs(trainer.shares(points)) do
    while state.share() < share do state.step() end
    if share < 1 then add("train", share, arm.sample_steps) end
  end
  for _, factor in ipairs { 0.25, 0.5, 2 } do
    local steps = math.floor(arm.sample_steps * factor + 0.5)
    if points > 1 and steps >= 1 and steps ~= arm.sample_steps then add("sample", 1, steps) end
  end
  local record, made = add("end", 1, arm.sample_steps)
  record.copies = metrics.memorisation(study.set, made).copies
  record.chain_gap = chain_gaps(study, arm, state.ema.model, seed)
  return records, made
end

--- The scale of it all: two halves of the real pictures beside each other, as the arm "real".
---@param study table
---@return table record
function cell.real(study)
  local order, n = require "hd.core".permutation(#study.set, 1), #study.set // 2
  if n < metrics.least then return nil end
  n = math.min(n, study.samples)
  local function part(first)
    return study.set:subset(table.move(order, first, first + n - 1, 1, {})).x:to "f32" * (1 / 127.5) - 1
  end
  local a, b = part(1), part(n + 1)
  local halves = { H = study.H, real = a, of_real = study.features(a), features = study.features,
    resamples = study.resamples }
  local record = cell.figures(halves, b)
  record.arm, record.seed, record.point, record.share = "real", 0, "end", 1
  return record
end

return cell
