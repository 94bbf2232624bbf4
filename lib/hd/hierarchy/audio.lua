-- hd/hierarchy/audio.lua: the shipped hierarchy of sounds: frequency bands of a critically sampled, orthonormal
-- transform, coarse to fine. Its bins are the channels of networks over time, each standardised by its own energy.

local check = require "hd.check"
local core = require "hd.core"
local mdct = require "hd.hierarchy.split.mdct"
local packet = require "hd.hierarchy.split.packet"
local wavelet = require "hd.hierarchy.split.wavelet"

-- The transform and its inverse.
local function transform(o)
  if o.transform == "mdct" then
    return function(x) return mdct.forward(x, o.bins, o.window) end,
      function(z) return mdct.inverse(z, o.bins, o.window) end
  end
  local steps = 0
  while 1 << steps < o.bins do steps = steps + 1 end
  if 1 << steps ~= o.bins then
    check.fail("hierarchy.audio", "bins is wrong: got %d, expected a power of 2 for wavelet packets", o.bins)
  end
  return function(x) return packet.forward(x, steps, o.wavelet) end,
    function(z) return packet.inverse(z, steps, o.wavelet) end
end

-- The last bin of each band: octaves below the highest, or those nearest to the edges in Hz.
local function last_bins(o)
  local last = {}
  if type(o.bands) == "number" then
    for i = 1, o.bands do last[i] = o.bins >> math.min(o.bands - i, 62) end
  else
    for i, edge in ipairs(check.list("hierarchy.audio", "bands", o.bands, "number")) do
      last[i] = math.tointeger(math.floor(math.max(0, math.min(1, edge * 2 / o.rate)) * o.bins + 0.5)) or 0
    end
    last[#last + 1] = o.bins
  end
  for i, bin in ipairs(last) do
    if bin <= (last[i - 1] or 0) then
      check.fail("hierarchy.audio",
        "band %d is empty: it would end at bin %d of %d, the one below at %d. Use more bins", i, bin,
        o.bins, last[i - 1] or 0)
    end
  end
  if #last == 0 then check.fail("hierarchy.audio", "there are no bands: expected at least 1") end
  return last
end

local function check_sizes(o)
  if o.rate < 1 or o.bins < 2 or o.bins > 1024 then
    check.fail("hierarchy.audio", "rate or bins is wrong: got %d and %d, expected 1 or more, and 2 to 1024", o.rate,
      o.bins)
  end
  if o.length < 2 * o.bins or o.length > 1 << 22 or o.length % o.bins ~= 0 then
    check.fail("hierarchy.audio", "length is wrong: got %d, expected a multiple of %d (bins), %d to %d", o.length,
      o.bins, 2 * o.bins, 1 << 22)
  end
end

-- hd.hierarchy.audio (init.lua).
return function(Hierarchy, opts)
  local o = check.options("hierarchy.audio", opts, {
    { "rate", "integer", 8000 }, { "length", "integer", 8192 }, { "bands", "integer|table", 3 },
    { "bins", "integer", 64 }, { "transform", { "mdct", "packet" }, "mdct" }, { "window", mdct.windows, "sine" },
    { "wavelet", wavelet.families, "db8" }, { "regime", Hierarchy.regimes, "cascade" }, { "schedule", "table" },
    { "predict", "string", "edm" }, { "t_aug", "number", 0.3 }, { "t_aug_sample", "number", 0 }, { "lag", "number" },
  })
  check_sizes(o)
  local forward, inverse = transform(o)
  local last, levels, edges = last_bins(o), {}, {}
  for i, bin in ipairs(last) do
    levels[i] = { name = "band" .. i, schedule = o.schedule, predict = o.predict }
    edges[i] = bin * o.rate / (2 * o.bins)
  end
  local function split(x)
    local z, out, first = forward(x), {}, 0
    for i, bin in ipairs(last) do
      out[levels[i].name] = z:narrow(2, first + 1, bin - first):contiguous()
      first = bin
    end
    return out
  end
  local function join(z)
    local parts = {}
    for i, level in ipairs(levels) do parts[i] = z[level.name] end
    return inverse(core.op.cat(parts, 2))
  end
  local H = Hierarchy {
    name = "audio", split = split, join = join, shape = { 1, o.length }, regime = o.regime, levels = levels,
    t_aug = o.t_aug, t_aug_sample = o.t_aug_sample, lag = o.lag,
  }
  H.rate, H.edges = o.rate, edges -- Hz at which the bands end
  return H
end
