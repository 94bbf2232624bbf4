-- hd/data/synth.lua: plucked strings and drums by rule, each with what it is made of.
-- Calls: core, hd.check, hd.data.set, hd.hierarchy.draw.
-- A sound is a sum of rings (sines that fall exponentially: the partials of a string, the modes of a membrane), a sine
-- of falling pitch, or noise of a band. m clips of one class are made at once; their parameters are f64 [m, 1].
-- Source: Fletcher and Rossing, The physics of musical instruments, 1998, chapters 2 and 3.

local core = require "hd.core"
local check = require "hd.check"
local Set = require "hd.data.set"
local draw = require "hd.hierarchy.draw"

local STREAM = 0x73796e74 -- of all random numbers here
local TAU = 2 * math.pi
local HIGHEST = 0.45 -- of the rate: what would ring above is left out
local PARTIALS = 40 -- of a string
local MEMBRANE = { 1, 1.5933, 2.1355, 2.2954, 2.6531, 2.9173 } -- zeros of Bessel functions over the first of J0
local FULL_RATE = 16000 -- below it, bands of noise move down with the rate
local AT_ONCE, FRAMES_AT_ONCE = 64, 1 << 19 -- clips that are made at once, for the memory

-- Parts of sounds -------------------------------------------------------------------------------------------------

local function column(clips, key)
  local list = {}
  for i, clip in ipairs(clips) do list[i] = { clip[key] } end
  return core.tensor(list, { dtype = "f64" })
end

local function row(list) return core.tensor({ list }, { dtype = "f64" }) end

local function span(first, last) return core.arange(first, last, { dtype = "f64" }):unsqueeze(1) end

-- exp(-t / decay), [m, length].
local function fall(decay, o) return (span(0, o.length - 1) / (decay * -o.rate)):exp() end

-- The sum over k of strength sin(TAU frequency t) exp(-t / decay), each [m, k]; f32 [m, length].
-- A ring is the imaginary part of z^t, and z^(wide q + r) = z^(wide q) z^r: the clip, as rows of `wide` frames, is a
-- product of two small matrices.
local function rings(frequency, strength, decay, o)
  local wide = math.ceil(math.sqrt(o.length))
  local function powers(t) -- imaginary and real part, [m, k, frames]
    local angle, size = frequency:unsqueeze(3) * (t * TAU), (t / -decay:unsqueeze(3)):exp()
    return angle:sin() * size, angle:cos() * size
  end
  local heard = core.op.where(frequency:lt(HIGHEST * o.rate), strength, 0):unsqueeze(3)
  local sin_q, cos_q = powers(span(0, (o.length - 1) // wide) * (wide / o.rate))
  local sin_r, cos_r = powers(span(0, wide - 1) / o.rate)
  local z_q = core.op.cat({ sin_q * heard, cos_q * heard }, 2):to "f32"
  local z_r = core.op.cat({ cos_r, sin_r }, 2):to "f32"
  return z_q:transpose(2, 3):matmul(z_r):flatten(2):narrow(2, 1, o.length)
end

-- White noise from `low` to `high` hertz, of variance 1: f32 [m, length]. The filter is an ideal one under Blackman's
-- window: 0.022 of the rate, or of FULL_RATE, from pass to stop, centred at the edges.
local function noise(clips, rngs, o)
  local half = math.ceil(127 * math.max(1, o.rate / FULL_RATE))
  local at = span(0, 2 * half - 1) - (half - 0.5)
  local window = (at * (math.pi / half)):cos() * 0.5 + (at * (TAU / half)):cos() * 0.08 + 0.42
  local function below(key) return (column(clips, key) * (at * (TAU / o.rate))):sin() end
  local filter = (below "high" - below "low") / at * window
  filter = (filter / filter:norm(2, true)):to "f32"
  local white = draw.normal(rngs, { o.length + 2 * half - 1 })
  return core.op.conv1d(white:unsqueeze(1), filter:unsqueeze(2), nil, nil, nil, { groups = #clips }):squeeze(1)
end

-- Sounds: functions (clips, o, rngs) -> [m, length] ---------------------------------------------------------------

local function pluck(clips, o)
  local k = span(1, PARTIALS)
  local frequency = k * column(clips, "frequency") * (k:square() * column(clips, "inharmonicity") + 1):sqrt()
  local strength = (k * math.pi * column(clips, "position")):sin() / k:square()
  return rings(frequency, strength, column(clips, "decay") / ((k - 1) * column(clips, "damping") + 1), o)
end

local function membrane(clips, o)
  local ratio = row(MEMBRANE)
  return rings(ratio * column(clips, "frequency"), ratio:pow(-column(clips, "softness")),
    column(clips, "decay") / ratio, o)
end

local function snare(clips, o, rngs)
  return membrane(clips, o) + noise(clips, rngs, o) * (fall(column(clips, "noise_decay"), o) * column(clips, "noise"))
end

local function hat(clips, o, rngs) return noise(clips, rngs, o) * fall(column(clips, "decay"), o) end

local function kick(clips, o)
  local sweep, t = column(clips, "sweep"), span(0, o.length - 1) / o.rate
  local turns = (t + column(clips, "drop") * sweep * (1 - fall(sweep, o))) * column(clips, "frequency")
  return (turns * TAU):sin() * fall(column(clips, "decay"), o)
end

-- Hertz and seconds; each parameter is drawn between its limits, evenly in its logarithm.
local CLASSES = {
  { name = "bass", make = pluck, { "frequency", 41, 98 }, { "position", 0.15, 0.3 }, { "inharmonicity", 1e-4, 4e-4 },
    { "decay", 0.3, 0.6 }, { "damping", 0.1, 0.3 } },
  { name = "guitar", make = pluck, { "frequency", 110, 294 }, { "position", 0.12, 0.25 },
    { "inharmonicity", 3e-5, 1e-4 }, { "decay", 0.25, 0.5 }, { "damping", 0.1, 0.3 } },
  { name = "harp", make = pluck, { "frequency", 262, 784 }, { "position", 0.42, 0.5 },
    { "inharmonicity", 1e-5, 5e-5 }, { "decay", 0.3, 0.6 }, { "damping", 0.3, 0.6 } },
  { name = "banjo", make = pluck, { "frequency", 147, 587 }, { "position", 0.04, 0.09 },
    { "inharmonicity", 3e-5, 1e-4 }, { "decay", 0.08, 0.16 }, { "damping", 0.02, 0.08 } },
  { name = "kick", make = kick, { "frequency", 45, 65 }, { "drop", 1.5, 4 }, { "sweep", 0.02, 0.05 },
    { "decay", 0.1, 0.25 } },
  { name = "snare", make = snare, { "frequency", 150, 220 }, { "softness", 1, 2 }, { "decay", 0.05, 0.1 },
    { "noise", 0.3, 0.8 }, { "noise_decay", 0.08, 0.15 }, { "low", 1000, 2000 }, { "high", 4000, 6500 } },
  { name = "tom", make = membrane, { "frequency", 80, 180 }, { "softness", 1.5, 3 }, { "decay", 0.15, 0.35 } },
  { name = "hat", make = hat, { "low", 4500, 5800 }, { "high", 6300, 6900 }, { "decay", 0.02, 0.12 } },
}
local IN_BAND = { low = true, high = true }

-- The set ---------------------------------------------------------------------------------------------------------

local LIMITS = { { "rate", 4000, 192000 }, { "length", 64, 1 << 22 }, { "n", 1, 1 << 16 } }
local MOST = 1 << 28 -- numbers of a set

local function read_options(opts)
  local o = check.options("data.synth", opts, {
    { "rate", "integer", 8000 }, { "length", "integer", 8192 }, { "n", "integer", 1000 }, { "seed", "integer", 0 },
  })
  for _, limit in ipairs(LIMITS) do
    local name, least, most = table.unpack(limit)
    if o[name] < least or o[name] > most then
      check.fail("data.synth", "%s is wrong: got %d, expected %d to %d", name, o[name], least, most)
    end
  end
  if o.n * o.length > MOST then
    check.fail("data.synth", "the set is too large: got %d clips of %d frames, expected at most %d frames", o.n,
      o.length, MOST)
  end
  return o
end

-- What a clip is made of, by chance.
local function describe(class, rng, o)
  local about = { class = class.name }
  for _, parameter in ipairs(class) do
    local name, low, high = table.unpack(parameter)
    local value = low * (high / low) ^ rng:number()
    about[name] = IN_BAND[name] and value * math.min(1, o.rate / FULL_RATE) or value
  end
  return about
end

-- The clips of one class, put into their rows of x.
local function fill(x, class, rows, about, rngs, o)
  local most = math.max(1, math.min(AT_ONCE, FRAMES_AT_ONCE // o.length))
  for first = 1, #rows, most do
    local _ <close> = core.scope()
    local clips, generators = {}, {}
    for j = first, math.min(first + most - 1, #rows) do
      clips[#clips + 1], generators[#generators + 1] = about[rows[j]], rngs[rows[j]]
    end
    local sound = class.make(clips, o, generators)
    sound = sound / sound:abs():amax(2, true)
    for j = 1, #clips do x[rows[first + j - 1]]:copy_(sound[j]) end
  end
end

--- Plucked strings (bass, guitar, harp, banjo) and drums (kick, snare, tom, hat) of known spectra, made by rule: clip i
--- depends on (seed, i), the rate and the length alone. Clips are f32 [n, 1, length], each with a peak of 1.
---
--- `set.about[i]` says what clip i is made of: its class, and in hertz and seconds, t from 0:
---
--- - strings: partials k = 1 to 40 of k frequency sqrt(1 + inharmonicity k^2), strong as sin(pi k position) / k^2,
---   falling as exp(-t (1 + damping (k - 1)) / decay);
--- - tom: modes of frequency times r = 1, 1.5933, 2.1355, 2.2954, 2.6531 and 2.9173, strong as r^-softness, falling as
---   exp(-t r / decay);
--- - snare: such modes, and noise from low to high, of deviation `noise`, that falls as exp(-t / noise_decay);
--- - hat: noise from low to high that falls as exp(-t / decay);
--- - kick: a sine of frequency (1 + drop exp(-t / sweep)) that falls as exp(-t / decay).
---
--- All sines begin at 0; none is above 0.45 of the rate.
---@param opts? {rate?: integer, length?: integer, n?: integer, seed?: integer}  rate 8000 (4000 to 192000), length 8192
---  frames (64 to 2^22), n 1000 (to 65536; 2^28 frames in all), seed 0
---@return hd.data.Set set  with `rate` and `about`
local function synth(opts)
  local o = read_options(opts)
  local rngs = draw.generators({ seed = o.seed, first = 1 }, STREAM, o.n)
  local about, labels, classes, members = {}, {}, {}, {}
  for label, class in ipairs(CLASSES) do classes[label], members[label] = class.name, {} end
  for i, rng in ipairs(rngs) do
    local label = math.floor(rng:number() * #CLASSES) + 1
    about[i], labels[i] = describe(CLASSES[label], rng, o), label
    table.insert(members[label], i)
  end
  local x = core.zeros { o.n, o.length }
  for label, class in ipairs(CLASSES) do fill(x, class, members[label], about, rngs, o) end
  return Set(x:unsqueeze(2), core.tensor(labels, { dtype = "i64" }),
    { name = "synth", classes = classes, rate = o.rate, about = about })
end

return synth
