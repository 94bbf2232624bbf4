-- hd/audio/spectrogram.lua: the power of sounds by time and frequency, as numbers and as pictures.
-- Calls: core, hd.check. Called by: hd.audio, hd.metrics.

local check = require "hd.check"
local core = require "hd.core"

local spectrogram = {}
local BLOCK = 64 -- sounds at once

local bases = setmetatable({}, { __mode = "v" }) -- the last ones used, until the collector comes

-- Hann-windowed cosines and sines of the frequencies 1 to size / 2, [size, size]: white noise keeps its variance.
local function basis(size)
  if bases[size] then return bases[size] end
  local i = core.arange(0, size - 1):to "f64"
  local window = 0.5 - ((i + 0.5) * (2 * math.pi / size)):cos() * 0.5
  local angle = core.arange(1, size // 2):to "f64":view(1, -1) * i:view(-1, 1) * (2 * math.pi / size)
  local waves = core.op.cat({ angle:cos(), angle:sin() }, 2) * window:view(-1, 1)
  bases[size] = core.keep((waves * (1 / window:square():sum():sqrt())):to "f32")
  return bases[size]
end

-- Sounds as [n, frames].
local function rows_of(where, x)
  check.arg(where, "x", x, "tensor")
  if x:dim() == 1 then x = x:unsqueeze(1) end
  if x:dim() == 3 and x:size(2) == 1 then x = x:squeeze(2) end
  if x:dim() ~= 2 or x:size(1) == 0 or x:dtype():sub(1, 1) ~= "f" then
    check.fail(where, "x is wrong: got %s, expected sounds [frames], [n,frames] or [n,1,frames]", check.show(x))
  end
  return x:to "f32"
end

local function check_sizes(where, o, frames)
  if o.size < 4 or o.size > 4096 or o.size % 2 ~= 0 or o.hop < 1 or o.size % o.hop ~= 0 then
    check.fail(where, "size or hop is wrong: got %d and %d, expected an even size, 4 to 4096, and a part of it",
      o.size, o.hop)
  end
  if frames < o.hop then
    check.fail(where, "x is too short: got %d frames, expected at least %d (hop)", frames, o.hop)
  end
end

-- Power [n, size / 2, columns], column i around the hop's frames i; what lies beyond the ends is silence.
local function power(x, o)
  local n, columns, parts = x:size(1), -(-x:size(2) // o.hop), {}
  local before = (o.size - o.hop) // 2
  local padded = core.op.cat({ core.zeros { n, before }, x,
    core.zeros { n, columns * o.hop + o.size - o.hop - before - x:size(2) } }, 2)
  for first = 1, o.size, o.hop do
    parts[#parts + 1] = padded:narrow(2, first, columns * o.hop):reshape(n, columns, o.hop)
  end
  local waves = core.op.cat(parts, 3):matmul(basis(o.size)):square()
  local bins = o.size // 2
  return (waves:narrow(3, 1, bins) + waves:narrow(3, bins + 1, bins)):transpose(2, 3):contiguous()
end

local function mel(hertz) return 2595 * math.log(1 + hertz / 700, 10) end
local function hertz(m) return 700 * (10 ^ (m / 2595) - 1) end

-- Triangles evenly spaced in mel, [bands, bins], each a mean of the bins that it covers.
-- Source: Davis and Mermelstein 1980, in O'Shaughnessy's mel, 1987.
local function triangles(bands, bins, rate)
  local edges, rows, lowest = {}, {}, mel(50)
  for b = 0, bands + 1 do edges[b] = hertz(lowest + (mel(rate / 2) - lowest) * b / (bands + 1)) end
  for b = 1, bands do
    local row, sum = {}, 0
    local low, middle, high = edges[b - 1], edges[b], edges[b + 1]
    for k = 1, bins do
      local f = k * rate / (2 * bins)
      row[k] = math.max(0, math.min((f - low) / (middle - low), (high - f) / (high - middle)))
      sum = sum + row[k]
    end
    if sum == 0 then -- narrower than a bin: the nearest
      local nearest = math.max(1, math.min(bins, math.floor(middle * 2 * bins / rate + 0.5)))
      row[nearest], sum = 1, 1
    end
    for k = 1, bins do row[k] = row[k] / sum end
    rows[b] = row
  end
  return core.tensor(rows):to "f32"
end

--- The power of sounds by frequency and time: Hann windows of `size` frames, every `hop` frames; bin k lies around
--- k rate / size. White noise of variance v has the power v in every bin; a sine of amplitude a has about a^2 size / 6
--- in its own. The ends are followed by silence.
---@param x hd.Tensor  [frames], [n, frames] or [n, 1, frames]
---@param opts? table  size (256) and hop (64, a part of the size); bands: so many mel bands instead of bins, for which
---  the rate is needed
---@return hd.Tensor power  f32 [n, size / 2 or bands, ceil(frames / hop)]
function spectrogram.power(x, opts)
  local where = "audio.spectrogram"
  local o = check.options(where, opts, {
    { "size", "integer", 256 }, { "hop", "integer", 64 }, { "bands", "integer" }, { "rate", "integer" },
  })
  x = rows_of(where, x)
  check_sizes(where, o, x:size(2))
  local p = power(x, o)
  if not o.bands then return p end
  if not o.rate or o.rate < 200 then check.fail(where, "bands need the rate: expected at least 200 Hz") end
  if o.bands < 1 or o.bands > o.size // 2 then
    check.fail(where, "bands is wrong: got %d, expected 1 to %d (half of size)", o.bands, o.size // 2)
  end
  local weights = triangles(o.bands, o.size // 2, o.rate)
  return weights:unsqueeze(1):expand(x:size(1), -1, -1):contiguous():matmul(p)
end

--- Spectrograms as pictures: time from left to right, frequency from below, white the loudest of all sounds given,
--- black what is `range` decibels below it, or silence.
---@param x hd.Tensor  [frames], [n, frames] or [n, 1, frames]
---@param opts? table  size (256), hop (64), range (60 dB)
---@return hd.Tensor pictures  f32 [n, 1, size / 2, ceil(frames / hop)] in [-1, 1]
function spectrogram.picture(x, opts)
  local where = "audio.picture"
  local _ <close> = core.no_grad()
  local o = check.options(where, opts,
    { { "size", "integer", 256 }, { "hop", "integer", 64 }, { "range", "number", 60 } })
  if not (o.range > 0) then check.fail(where, "range is wrong: got %g, expected more than 0 dB", o.range) end
  x = rows_of(where, x)
  check_sizes(where, o, x:size(2))
  local p = power(x, o)
  local loudest = math.max(1e-30, p:amax():item())
  local decibels = (p * (1 / loudest) + 1e-30):log() * (10 / math.log(10))
  return (decibels * (2 / o.range) + 1):clamp(-1, 1):flip(2):unsqueeze(2)
end

-- Mean power of all sounds in each bin, f64 [size / 2].
local function mean_power(where, x, size)
  x = rows_of(where, x)
  check_sizes(where, { size = size, hop = size }, x:size(2))
  local sums = core.zeros({ size // 2 }, { dtype = "f64" })
  for first = 1, x:size(1), BLOCK do
    local _ <close> = core.scope()
    local part = x:narrow(1, first, math.min(BLOCK, x:size(1) - first + 1))
    sums:add_(power(part, { size = size, hop = size // 2 }):to "f64":mean(3):sum(1))
  end
  return sums / x:size(1)
end

--- How much louder the bands of some sounds are than those of others, by mean power.
---@param real hd.Tensor  sounds, as of spectrogram.power
---@param made hd.Tensor  sounds; there may be more or fewer
---@param opts table      rate; edges: Hz at which the bands end, rising (of hd.hierarchy.audio: H.edges); size (256)
---@return number[] decibels  10 log10(made / real) for each band: 0 where it is right
function spectrogram.band_difference(real, made, opts)
  local where = "audio.band_difference"
  local _ <close> = core.no_grad()
  local o = check.options(where, opts, {
    { "rate", "integer", required = true }, { "edges", "table", required = true }, { "size", "integer", 256 },
  })
  local edges = check.list(where, "edges", o.edges, "number")
  if o.rate < 1 then check.fail(where, "rate is wrong: got %d, expected at least 1 Hz", o.rate) end
  local before, after = mean_power(where, real, o.size), mean_power(where, made, o.size)
  local decibels, first = {}, 0
  for i, edge in ipairs(edges) do
    local last = math.tointeger(math.min(edge * o.size / o.rate, o.size / 2) // 1) or 0 -- 0 of no number
    if last <= first then
      check.fail(where, "band %d is empty: it would end at bin %d, the one below at %d", i, last, first)
    end
    local a = before:narrow(1, first + 1, last - first):sum():item()
    local b = after:narrow(1, first + 1, last - first):sum():item()
    decibels[i] = 10 * math.log((b + 1e-30) / (a + 1e-30), 10)
    first = last
  end
  return decibels
end

return spectrogram
