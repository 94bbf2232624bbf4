-- hd/metrics/init.lua: hd.metrics, figures for drawn samples beside real ones. None of them needs a download.
-- Samples are [n, ...] f32 in [-1, 1], u8, or a data set; features [n, d]. Fewer than 500 on either side are refused:
-- with fewer the figures say little, and several are biased by the number itself, so compare equal numbers only.
-- Each takes `resamples` (0): with 20, say, it also gives the 95 % interval { low =, high = } of its value, from so
-- many random halves; and `seed` (0), on which the halves and whatever else is random depend alone.
-- Calls: hd.metrics.*. Called by: hd.tool.compare, users.

local bits = require "hd.metrics.bits"
local check = require "hd.check"
local core = require "hd.core"
local features = require "hd.metrics.features"
local gaussian = require "hd.metrics.gaussian"
local interval = require "hd.metrics.interval"
local levels = require "hd.metrics.levels"
local neighbours = require "hd.metrics.neighbours"
local pictures = require "hd.metrics.pictures"
local sliced = require "hd.metrics.sliced"
local two_sample = require "hd.metrics.two_sample"

local metrics = {
  --- Read features that train_features (or `hdlua -m features`) made.
  features = features.load,
  train_features = features.train,
  least = 500,
}

-- Arguments -------------------------------------------------------------------------------------------------------

local function options(name, opts, more)
  local spec = { { "resamples", "integer", 0 }, { "seed", "integer", 0 } }
  for _, entry in ipairs(more or {}) do spec[#spec + 1] = entry end
  local o = check.options("metrics." .. name, opts, spec)
  if o.resamples < 0 or o.resamples == 1 then
    check.fail("metrics." .. name, "resamples is wrong: got %d, expected 0, or 2 and more", o.resamples)
  end
  return o
end

local function at_least(name, key, value, least)
  if value < least then
    check.fail("metrics." .. name, "%s is wrong: got %d, expected at least %d", key, value, least)
  end
end

local function enough(name, what, x)
  if x:size(1) < metrics.least then
    check.fail("metrics." .. name, "%s has too few samples: got %d, expected at least %d\n"
      .. "  hint: with fewer the figure says little; draw more", what, x:size(1), metrics.least)
  end
  return x
end

local function samples(name, what, x) return enough(name, what, levels.batch("metrics." .. name, what, x)) end

local function same_shape(name, a, b)
  local got, expected = table.concat(b:shape(), ",", 2), table.concat(a:shape(), ",", 2)
  if got ~= expected then
    check.fail("metrics." .. name, "shapes differ: got [n,%s] for made, expected [n,%s] as in real", got, expected)
  end
  return a, b
end

local function two_batches(name, real, made)
  return same_shape(name, samples(name, "real", real), samples(name, "made", made))
end

local function two_pictures(name, real, made)
  real, made = two_batches(name, real, made)
  if real:dim() ~= 4 then
    check.fail("metrics." .. name, "real is wrong: got %s, expected pictures [n,c,h,w]", check.show(real))
  end
  return real, made
end

local function feature_rows(name, what, x)
  check.arg("metrics." .. name, what, x, "tensor")
  if x:dim() ~= 2 or x:dtype():sub(1, 1) ~= "f" then
    check.fail("metrics." .. name, "%s is wrong: got %s, expected features [n,d] (hd.metrics.features)", what,
      check.show(x))
  end
  return enough(name, what, x)
end

local function two_features(name, real, made)
  return same_shape(name, feature_rows(name, "real", real), feature_rows(name, "made", made))
end

-- The value of a statistic of sets, and its interval where resamples are wanted.
local function measured(statistic, sets, o)
  local value = statistic(table.unpack(sets))
  if o.resamples == 0 then return value end
  return value, interval.of(statistic, sets, value, o.resamples, o.seed)
end

-- Features --------------------------------------------------------------------------------------------------------

--- Fréchet distance in features: the squared distance of two normal distributions with the sets' means and
--- covariances. Only comparable among figures made with the same features (say their name) and as many samples.
--- Source: Dowson and Landau 1982; for pictures Heusel et al. 2017.
---@param real hd.Tensor  [n, d]
---@param made hd.Tensor  [m, d]
---@param opts? { resamples: integer, seed: integer }
---@return number distance
---@return table? interval
function metrics.frechet(real, made, opts)
  local _ <close> = core.no_grad()
  local o = options("frechet", opts)
  return measured(gaussian.frechet, { two_features("frechet", real, made) }, o)
end

--- Kernel distance in features: the unbiased estimate of the squared maximum mean discrepancy with the kernel
--- (x.y / d + 1)^3; 0 on average where both sets come from one distribution, so it may be negative.
--- Source: Gretton et al. 2012, equation 3; for pictures Binkowski et al. 2018.
---@param real hd.Tensor  [n, d]
---@param made hd.Tensor  [m, d]
---@param opts? { resamples: integer, seed: integer }
---@return number distance
---@return table? interval
function metrics.kernel(real, made, opts)
  local _ <close> = core.no_grad()
  local o = options("kernel", opts)
  return measured(gaussian.kernel, { two_features("kernel", real, made) }, o)
end

--- Precision, the share of made samples that lie within the k-th neighbour's distance of a real one, and recall, the
--- share of real ones so near to a made one: { precision, recall }. Smooth blobs alone give a precision of 0.95.
--- Source: Kynkäänniemi et al. 2019, equation 2.
---@param real hd.Tensor  [n, d]
---@param made hd.Tensor  [m, d]
---@param opts? { k: integer, resamples: integer, seed: integer }  k 3
---@return number[] pair
---@return table? interval  low and high are pairs too
function metrics.precision_recall(real, made, opts)
  local _ <close> = core.no_grad()
  local o = options("precision_recall", opts, { { "k", "integer", 3 } })
  real, made = two_features("precision_recall", real, made)
  if o.k < 1 or o.k > 100 then
    check.fail("metrics.precision_recall", "k is wrong: got %d, expected 1 to 100", o.k)
  end
  return measured(function(a, b) return neighbours.precision_recall(a, b, o.k) end, { real, made }, o)
end

--- Classifier two-sample accuracy: how often a small network that was trained on one half of both sets tells from which
--- one a sample of the other half comes. 0.5 where they cannot be told apart, 1 where always. The interval is Wilson's.
--- Source: Lopez-Paz and Oquab 2017.
---@param real hd.Tensor  [n, d]
---@param made hd.Tensor  [m, d]
---@param opts? { seed: integer }
---@return number accuracy
---@return table interval
function metrics.two_sample(real, made, opts)
  local o = check.options("metrics.two_sample", opts, { { "seed", "integer", 0 } })
  real, made = two_features("two_sample", real, made)
  local right, asked = two_sample(real:detach():to "f32", made:detach():to "f32", o.seed)
  return right / asked, interval.of_share(right, asked)
end

-- Samples ---------------------------------------------------------------------------------------------------------

--- Sliced Wasserstein distance of order 2: the root mean square, over random directions of length 1, of the distance of
--- the sets' projections. Two normal distributions with equal covariance and means m apart are |m| / sqrt(d) apart.
--- Source: Rabin et al. 2011; Bonneel et al. 2015.
---@param real hd.Tensor|hd.data.Set  [n, ...]
---@param made hd.Tensor|hd.data.Set  [m, ...]
---@param opts? { projections: integer, resamples: integer, seed: integer }  projections 128
---@return number distance
---@return table? interval
function metrics.sliced_wasserstein(real, made, opts)
  local _ <close> = core.no_grad()
  local o = options("sliced_wasserstein", opts, { { "projections", "integer", 128 } })
  real, made = two_batches("sliced_wasserstein", real, made)
  at_least("sliced_wasserstein", "projections", o.projections, 1)
  local a, b = sliced.project(real, o.projections, o.seed), sliced.project(made, o.projections, o.seed)
  return measured(sliced.distance, { a, b }, o)
end

--- Log-spectrum distance of pictures in decibels: the root mean square, over the rings of spatial frequency, of the
--- difference of the sets' mean powers. It sees the grain and the blur that a Fréchet distance forgives.
--- Source: Gray and Markel 1976; for pictures Durall et al. 2020.
---@param real hd.Tensor|hd.data.Set  [n, c, h, w]
---@param made hd.Tensor|hd.data.Set  [m, c, h, w]
---@param opts? { resamples: integer, seed: integer }
---@return number decibels
---@return table? interval
function metrics.spectrum_distance(real, made, opts)
  local _ <close> = core.no_grad()
  local o = options("spectrum_distance", opts)
  real, made = two_pictures("spectrum_distance", real, made)
  return measured(pictures.decibels, { pictures.spectrum(made), pictures.spectrum(real) }, o)
end

--- The mean power of pictures by spatial frequency: number r belongs to r cycles over the longer side.
---@param x hd.Tensor|hd.data.Set  [n, c, h, w]
---@return number[]
function metrics.spectrum(x)
  local _ <close> = core.no_grad()
  x = samples("spectrum", "x", x)
  if x:dim() ~= 4 then check.fail("metrics.spectrum", "x is wrong: got %s, expected [n,c,h,w]", check.show(x)) end
  return pictures.spectrum(x):mean(1):totable()
end

--- How far the mean of each channel has moved, in units of the samples (whose range is [-1, 1]).
---@param real hd.Tensor|hd.data.Set  [n, c, ...]
---@param made hd.Tensor|hd.data.Set  [m, c, ...]
---@param opts? { resamples: integer, seed: integer }
---@return number[] shifts  one for each channel
---@return table? interval  low and high are lists too
function metrics.mean_shift(real, made, opts)
  local _ <close> = core.no_grad()
  local o = options("mean_shift", opts)
  real, made = two_batches("mean_shift", real, made)
  local function shift(a, b) return (b:mean(1) - a:mean(1)):totable() end
  return measured(shift, { pictures.channels(real), pictures.channels(made) }, o)
end

--- Energy of each Haar band relative to real pictures, 1 where it is right: the low band about its mean, then the
--- details from coarse to fine. Below 1 is blur, above 1 grain.
--- Source: Haar bands as in hd.hierarchy.haar (Mallat 1989).
---@param real hd.Tensor|hd.data.Set  [n, c, h, w]
---@param made hd.Tensor|hd.data.Set  [m, c, h, w]
---@param opts? { steps: integer, resamples: integer, seed: integer }  steps: Haar steps (2, or as many as the extents
---  allow)
---@return number[] ratios  steps + 1 of them
---@return table? interval  low and high are lists too
function metrics.band_energy(real, made, opts)
  local _ <close> = core.no_grad()
  local o = options("band_energy", opts, { { "steps", "integer" } })
  real, made = two_pictures("band_energy", real, made)
  local steps = pictures.steps(real, o.steps or 2)
  if steps < (o.steps or 1) or steps < 1 then
    check.fail("metrics.band_energy", "steps is wrong: got %d for pictures of %dx%d, expected at least 1 and extents "
      .. "that can be halved so often", o.steps or 1, real:size(3), real:size(4))
  end
  local function ratio(a, b) return (b:mean(1) / a:mean(1):clamp(1e-30)):totable() end
  return measured(ratio, { pictures.bands(real, steps), pictures.bands(made, steps) }, o)
end

-- Memorisation ----------------------------------------------------------------------------------------------------

-- The q-quantile of a rising list, between its neighbours in proportion.
local function quantile(sorted, q)
  local at = 1 + q * (#sorted - 1)
  local i = math.min(#sorted - 1, at // 1 | 0)
  return sorted[i] + (at - i) * (sorted[i + 1] - sorted[i])
end

local function quantiles(distances, list)
  local sorted, out = distances:totable(), {}
  table.sort(sorted)
  for i, q in ipairs(list) do out[i] = quantile(sorted, q) end
  return out, sorted
end

--- Does a model repeat its training set? Quantiles of the distance from each made sample to its nearest training sample
--- (root mean square difference of elements), beside those of real samples: of `held`, samples that were not trained
--- with, or else of the training samples among each other. `copies` is the share of made samples that are nearer to a
--- training sample than 99 of 100 real ones are: 0.01 is what honest samples give, much more is memory.
---@param train hd.Tensor|hd.data.Set  [n, ...]
---@param made hd.Tensor|hd.data.Set   [m, ...]
---@param opts? table  held: real samples that were not trained with; quantiles ({ 0, 0.01, 0.05, 0.5 }); resamples;
---  seed
---@return { made: number[], real: number[], copies: number } result
---@return table? interval  of `copies`
function metrics.memorisation(train, made, opts)
  local _ <close> = core.no_grad()
  local o = options("memorisation", opts, { { "held", "any" }, { "quantiles", "table", { 0, 0.01, 0.05, 0.5 } } })
  for _, q in ipairs(check.list("metrics.memorisation", "quantiles", o.quantiles, "number")) do
    if not (q >= 0 and q <= 1) then
      check.fail("metrics.memorisation", "a quantile is wrong: got %g, expected 0 to 1", q)
    end
  end
  train, made = two_batches("memorisation", train, made)
  local held = o.held and samples("memorisation", "held", o.held)
  if held then same_shape("memorisation", train, held) end
  local of_real = neighbours.nearest(train, held or train, not held)
  local of_made = neighbours.nearest(train, made, false)
  local real, sorted = quantiles(of_real, o.quantiles)
  local limit = quantile(sorted, 0.01)
  local function share(distances) return distances:lt(limit):to "f64":mean():item() end
  local copies, found = measured(share, { of_made }, o)
  return { made = quantiles(of_made, o.quantiles), real = real, copies = copies }, found
end

-- Levels ----------------------------------------------------------------------------------------------------------

--- Figures of each level of a hierarchy, in its standardised coordinates, where the real level has variance 1:
--- { level = { sliced =, spectrum =, interval = } }. `sliced` is the sliced Wasserstein distance, `spectrum` the
--- log-spectrum distance (dB) in the coordinates of the level's network, nil where these are no pictures of 4x4 pixels.
---@param H hd.hierarchy.Hierarchy  with statistics
---@param real hd.Tensor|hd.data.Set
---@param made hd.Tensor|hd.data.Set
---@param opts? { projections: integer, resamples: integer, seed: integer }  projections 128
---@return table<string, table>
function metrics.levels(H, real, made, opts)
  local _ <close> = core.no_grad()
  local o = options("levels", opts, { { "projections", "integer", 128 } })
  real, made = two_batches("levels", real, made)
  at_least("levels", "projections", o.projections, 1)
  local a, names = levels.of(H, real)
  local b, out = levels.of(H, made), {}
  for _, name in ipairs(names) do
    local figures = {}
    figures.sliced, figures.interval = metrics.sliced_wasserstein(a[name], b[name], o)
    local p, q = levels.spectra(H, name, a[name], b[name])
    figures.spectrum = p and pictures.decibels(q, p)
    out[name] = figures
  end
  return out
end

--- Chain gap of each level: how much worse a level is where it follows drawn coarser levels instead of the real ones,
--- { level = { given =, drawn =, gap = } }: sliced Wasserstein distances of the level's standardised coordinates from
--- the real ones, and their difference. A large gap says that the errors of coarser levels spoil the finer ones (more
--- noise on the context in training helps); a small gap with a large `given` that the level itself is weak. The first
--- level, which follows nothing, has no entry.
---@param H hd.hierarchy.Hierarchy
---@param models hd.hierarchy.Models?  nil where sample.denoise stands for the networks
---@param real hd.Tensor|hd.data.Set   as many samples are drawn, twice for each level
---@param opts? { projections: integer, seed: integer, sample: table }  sample: further options of H:sample
---@return table<string, table>
function metrics.chain_gap(H, models, real, opts)
  local _ <close> = core.no_grad()
  local o = check.options("metrics.chain_gap", opts, {
    { "projections", "integer", 128 }, { "seed", "integer", 0 }, { "sample", "table", {} },
  })
  real = samples("chain_gap", "real", real)
  at_least("chain_gap", "projections", o.projections, 1)
  local out = {}
  for i = 2, #H.levels do
    local name = H.levels[i].name
    if H.levels[i].kind ~= "gaussian" then
      check.fail("metrics.chain_gap", "level '%s' is of kind %s: expected gaussian", name, H.levels[i].kind)
    end
    local given, drawn = levels.gap(H, models, name, real, o)
    out[name] = { given = given, drawn = drawn, gap = drawn - given }
  end
  return out
end

-- Texts -----------------------------------------------------------------------------------------------------------

--- The bound on the bits that each character of a text takes, by a hierarchy of tokens: the lower, the better it knows
--- such texts; 8 for bytes that it knows nothing of. Figures of other vocabularies compare as long as both know all
--- symbols (what a vocabulary does not know counts as one symbol, however long). Source: H:bound.
---
---     print(hd.metrics.bits_per_character(H, ema.model, held_out))
---
---@param H hd.hierarchy.Hierarchy  hd.hierarchy.text{}
---@param models hd.hierarchy.Models
---@param set hd.data.TextSet       of the hierarchy's vocabulary and length
---@param opts? table  times: from each part of 0 to 1 one, for each window (64); windows: as many, evenly from the text
---  (all); batch (32); seed (0); resamples: for the interval, by windows (0)
---@return number bits
---@return table? interval
---@return table<string, number> parts  bits by level
function metrics.bits_per_character(H, models, set, opts)
  local o = options("bits_per_character", opts,
    { { "times", "integer", 64 }, { "windows", "integer" }, { "batch", "integer", 32 } })
  at_least("bits_per_character", "batch", o.batch, 1)
  at_least("bits_per_character", "times", o.times, 1)
  return bits.per_character(H, models, set, o)
end

return metrics
