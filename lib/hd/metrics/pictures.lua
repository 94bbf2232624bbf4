-- hd/metrics/pictures.lua: what can be told of each picture alone and is then averaged: means of channels, energies of
-- Haar bands, power by frequency. Calls: core, hierarchy/split/haar.
-- Each function gives rows, one for each picture; the metrics compare means of rows.

local core = require "hd.core"
local haar = require "hd.hierarchy.split.haar"

local pictures = {}
local CHUNK = 256 -- pictures at once

local function by_blocks(x, fn)
  local parts = {}
  for first = 1, x:size(1), CHUNK do
    parts[#parts + 1] = fn(x:narrow(1, first, math.min(CHUNK, x:size(1) - first + 1)))
  end
  return core.op.cat(parts, 1)
end

-- Means over all but the first dimension: [n].
local function mean_of(x) return x:reshape(x:size(1), -1):mean(2) end

--- Means of the channels: [n, c].
---@param x hd.Tensor  [n, c, ...]
---@return hd.Tensor
function pictures.channels(x) return x:reshape(x:size(1), x:size(2), -1):mean(3):to "f64" end

--- How many Haar steps the extents allow, at most `wanted`.
---@param x hd.Tensor  [n, c, h, w]
---@param wanted integer
---@return integer
function pictures.steps(x, wanted)
  local steps = 0
  for i = 1, wanted do
    local unit = 2 ^ i // 1
    if x:size(3) % unit ~= 0 or x:size(4) % unit ~= 0 then break end
    steps = i
  end
  return steps
end

--- Mean squares of the Haar bands: [n, steps + 1], the low band (about the set's mean picture) and the details from
--- coarse to fine.
---@param x hd.Tensor  [n, c, h, w]
---@param steps integer
---@return hd.Tensor
function pictures.bands(x, steps)
  local mean = haar.split(x:mean({ 1 }, true), steps)
  return by_blocks(x, function(part)
    local low, details = haar.split(part, steps)
    local columns = { mean_of((low - mean):square()) }
    for i, detail in ipairs(details) do columns[i + 1] = mean_of(detail:square()) end
    for i, column in ipairs(columns) do columns[i] = column:to "f64":unsqueeze(2) end
    return core.op.cat(columns, 2)
  end)
end

-- cos and sin of 2 pi j k / n: [n, n] each, symmetric.
local function waves(n)
  local steps = core.arange(0, n - 1):to "f64"
  local angle = (steps:view(n, 1) * steps % n) * (2 * math.pi / n)
  return angle:cos():to "f32", angle:sin():to "f32"
end

-- Which ring a frequency belongs to, 0 for none: the rounded distance from 0, in cycles over the longer side.
-- [h * w, r] with 1 / (number in the ring) where frequency and ring meet.
local function rings(h, w)
  local list, count, longest = {}, {}, math.max(h, w)
  for i = 0, h - 1 do
    for j = 0, w - 1 do
      local y, x = math.min(i, h - i) / h, math.min(j, w - j) / w
      local ring = math.floor(math.sqrt(x * x + y * y) * longest + 0.5)
      list[#list + 1] = ring
      count[ring] = (count[ring] or 0) + 1
    end
  end
  local last = #count
  local matrix = {}
  for k, ring in ipairs(list) do
    local row = {}
    for r = 1, last do row[r] = r == ring and 1 / count[r] or 0 end
    matrix[k] = row
  end
  return core.tensor(matrix, { dtype = "f32" })
end

--- Power by frequency: [n, r], r = 1, 2 ... cycles over the longer side, up to the corner of the frequency plane; the
--- mean over channels, directions and (divided by the number of pixels) positions. A transform by products: pictures
--- are small.
---@param x hd.Tensor  [n, c, h, w]
---@return hd.Tensor
function pictures.spectrum(x)
  local c, h, w = x:size(2), x:size(3), x:size(4)
  local cos_h, sin_h = waves(h)
  local cos_w, sin_w = waves(w)
  local ring = rings(h, w)
  return by_blocks(x, function(part)
    local n = part:size(1)
    local rows = part:reshape(n * c * h, w)
    local a, b = rows:matmul(cos_w):view(n * c, h, w), rows:matmul(sin_w):view(n * c, h, w)
    local real, imaginary = cos_h:matmul(a) - sin_h:matmul(b), sin_h:matmul(a) + cos_h:matmul(b)
    local power = (real:square() + imaginary:square()):view(n, c, h * w):mean(2) / (h * w)
    return power:matmul(ring):to "f64"
  end)
end

--- Root mean square difference of two spectra in decibels. Power below a millionth of the second one's mean counts as
--- that much.
---@param a hd.Tensor  rows of pictures.spectrum
---@param b hd.Tensor
---@return number
function pictures.decibels(a, b)
  local p, q = a:mean(1), b:mean(1)
  local floor = math.max(q:mean():item() * 1e-6, 1e-30)
  local ratio = (p + floor):log() - (q + floor):log()
  return (ratio * (10 / math.log(10))):square():mean():sqrt():item()
end

return pictures
