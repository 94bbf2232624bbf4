-- hd/hierarchy/split/mdct.lua: the modified discrete cosine transform of signals: frames of 2 N samples that overlap by
-- half become N frequencies each, so there are as many numbers as samples. The signal goes on periodically beyond its
-- ends, which with a window of w[i]^2 + w[i + N]^2 = 1 makes the map orthonormal: white noise stays white.
-- Sources: Princen, Johnson and Bradley 1987; the Kaiser-Bessel-derived window is that of AC-3 (Fielder et al. 1996).

local check = require "hd.check"
local core = require "hd.core"

local mdct = {}

--- The windows by name.
mdct.windows = { "sine", "kbd" }

-- Modified Bessel function of order 0.
local function bessel(x)
  local sum, term, k = 1.0, 1.0, 1
  while term > 1e-12 * sum do
    term = term * (x / (2 * k)) ^ 2
    sum, k = sum + term, k + 1
  end
  return sum
end

local WINDOW = {
  sine = function(n)
    local w = {}
    for i = 1, 2 * n do w[i] = math.sin(math.pi * (i - 0.5) / (2 * n)) end
    return w
  end,
  kbd = function(n) -- roots of the running sums of Kaiser's window, alpha = 4
    local sums, w, total = {}, {}, 0
    for i = 0, n do
      total = total + bessel(math.pi * 4 * math.sqrt(1 - (2 * i / n - 1) ^ 2))
      sums[i] = total
    end
    for i = 1, n do
      w[i] = math.sqrt(sums[i - 1] / total)
      w[2 * n + 1 - i] = w[i]
    end
    return w
  end,
}

local bases = setmetatable({}, { __mode = "v" }) -- the last ones used, until the collector comes

-- The windowed cosines [n, 2 n], a row for each frequency.
local function basis(n, window, dtype)
  local key = ("%d %s %s"):format(n, window, dtype)
  if bases[key] then return bases[key] end
  local w, rows = WINDOW[window](n), {}
  for k = 0, n - 1 do
    rows[k + 1] = {}
    for i = 0, 2 * n - 1 do
      rows[k + 1][i + 1] = w[i + 1] * math.sqrt(2 / n) * math.cos(math.pi / n * (i + 0.5 + n / 2) * (k + 0.5))
    end
  end
  bases[key] = core.keep(core.tensor(rows, { dtype = dtype }))
  return bases[key]
end

local function check_input(where, x, bins, window)
  check.arg(where, "x", x, "tensor")
  bins = check.arg(where, "bins", bins, "integer")
  check.one_of(where, "window", window, mdct.windows)
  if x:dim() ~= 3 or x:dtype():sub(1, 1) ~= "f" then
    check.fail(where, "x is wrong: got %s, expected numbers [n,channels,frames]", check.show(x))
  end
  if bins < 1 or bins > 1024 then check.fail(where, "bins is wrong: got %d, expected 1 to 1024", bins) end
  return bins
end

-- x [m, frames, n] with the frames moved on by `by` around the end.
local function rolled(x, by)
  local frames = x:size(2)
  by = by % frames
  return core.op.cat({ x:narrow(2, by + 1, frames - by), x:narrow(2, 1, by) }, 2)
end

--- Signals as frequencies over time.
---@param x hd.Tensor      [n, c, t], t a multiple of bins, two frames at least
---@param bins integer     frequencies in a frame; bin k (from 1) lies around (k - 1/2) / bins of the Nyquist frequency
---@param window? string   "sine" (default: compact), or "kbd" (far side lobes are lower)
---@return hd.Tensor       [n, c bins, t / bins]
function mdct.forward(x, bins, window)
  window = window or "sine"
  bins = check_input("mdct.forward", x, bins, window)
  local n, c, t = table.unpack(x:shape())
  if t % bins ~= 0 or t < 2 * bins then
    check.fail("mdct.forward", "the length is wrong: got %d samples, expected a multiple of %d, %d at least", t, bins,
      2 * bins)
  end
  local blocks = x:reshape(n * c, t // bins, bins)
  local frames = core.op.cat({ blocks, rolled(blocks, 1) }, 3)
  local z = frames:matmul(basis(bins, window, x:dtype()):transpose(1, 2))
  return z:transpose(2, 3):reshape(n, c * bins, t // bins)
end

--- The inverse of mdct.forward.
---@param z hd.Tensor      [n, c bins, frames]
---@param bins integer
---@param window? string
---@return hd.Tensor       [n, c, frames bins]
function mdct.inverse(z, bins, window)
  window = window or "sine"
  bins = check_input("mdct.inverse", z, bins, window)
  local n, channels, frames = table.unpack(z:shape())
  if channels % bins ~= 0 or frames < 2 then
    check.fail("mdct.inverse", "z is wrong: got [%d,%d,%d], expected a multiple of %d channels and two frames at least",
      n, channels, frames, bins)
  end
  local c = channels // bins
  local both = z:reshape(n * c, bins, frames):transpose(2, 3):matmul(basis(bins, window, z:dtype()))
  local x = both:narrow(3, 1, bins) + rolled(both:narrow(3, bins + 1, bins), -1)
  return x:reshape(n, c, frames * bins)
end

return mdct
