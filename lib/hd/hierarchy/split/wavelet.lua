-- hd/hierarchy/split/wavelet.lua: orthonormal wavelet steps on signals [n, c, t] and pictures [n, c, h, w]: Haar, and
-- Daubechies' db2 to db8, whose filters of 4 to 16 numbers see fewer blocks. Signals go on periodically beyond their
-- ends, which alone keeps every step orthonormal, so white noise stays white.
-- Sources: Daubechies 1988; the filters by spectral factorisation as in Strang and Nguyen 1996, section 5.5.

local check = require "hd.check"
local core = require "hd.core"
local haar = require "hd.hierarchy.split.haar"

local wavelet = {}

--- The families by name.
wavelet.families = { "haar", "db2", "db3", "db4", "db5", "db6", "db7", "db8" }

-- Complex numbers as { re, im } --------------------------------------------------------------------------------------

local function mul(a, b) return { a[1] * b[1] - a[2] * b[2], a[1] * b[2] + a[2] * b[1] } end
local function sub(a, b) return { a[1] - b[1], a[2] - b[2] } end
local function div(a, b)
  local d = b[1] ^ 2 + b[2] ^ 2
  return { (a[1] * b[1] + a[2] * b[2]) / d, (a[2] * b[1] - a[1] * b[2]) / d }
end
local function root(a)
  local r = math.sqrt(a[1] ^ 2 + a[2] ^ 2)
  local re = math.sqrt(math.max(0, (r + a[1]) / 2))
  local im = math.sqrt(math.max(0, (r - a[1]) / 2))
  return { re, a[2] < 0 and -im or im }
end

-- All roots of sum a[k + 1] y^k, by the method of Durand and Kerner.
local function roots_of(a)
  local n, list = #a - 1, {}
  local guess = { 1, 0 }
  for i = 1, n do
    guess = mul(guess, { 0.4, 0.9 })
    list[i] = guess
  end
  for _ = 1, 200 do
    for i, y in ipairs(list) do
      local value, others = { a[n + 1], 0 }, { a[n + 1], 0 }
      for k = n, 1, -1 do
        value = mul(value, y)
        value[1] = value[1] + a[k]
      end
      for j, other in ipairs(list) do
        if j ~= i then others = mul(others, sub(y, other)) end
      end
      list[i] = sub(y, div(value, others))
    end
  end
  return list
end

-- Filters ------------------------------------------------------------------------------------------------------------

-- The product of a polynomial with (z - r), lowest power first.
local function times_root(poly, r)
  local out = {}
  for k = 1, #poly + 1 do out[k] = sub(poly[k - 1] or { 0, 0 }, mul(r, poly[k] or { 0, 0 })) end
  return out
end

-- The low-pass filter with p vanishing moments: (1 + z)^p and, of each pair of zeros z, 1/z of the half-band product,
-- the one inside the unit circle; its sum is sqrt 2.
local function daubechies(p)
  local a, binomial = {}, 1
  for k = 0, p - 1 do
    a[k + 1] = binomial -- p - 1 + k over k
    binomial = binomial * (p + k) / (k + 1)
  end
  local poly = { { 1, 0 } }
  for _ = 1, p do poly = times_root(poly, { -1, 0 }) end
  for _, y in ipairs(roots_of(a)) do -- z + 1/z = 2 - 4y
    local b = { 1 - 2 * y[1], -2 * y[2] }
    local s = root(sub(mul(b, b), { 1, 0 }))
    local z = sub(b, s)
    if z[1] ^ 2 + z[2] ^ 2 > 1 then z = { b[1] + s[1], b[2] + s[2] } end
    poly = times_root(poly, z)
  end
  local filter, sum = {}, 0
  for k, c in ipairs(poly) do
    filter[#poly + 1 - k] = c[1] -- highest power first: most of the energy at the beginning, as it is tabulated
    sum = sum + c[1]
  end
  for k = 1, #filter do filter[k] = filter[k] * math.sqrt(2) / sum end
  return filter
end

local filters = {}

--- The low-pass filter of a family; the high-pass is it reversed, every other sign changed.
---@param family string
---@return number[]
function wavelet.filter(family)
  check.one_of("wavelet", "family", family, wavelet.families)
  filters[family] = filters[family] or daubechies(tonumber(family:match "%d+$" or 1))
  return { table.unpack(filters[family]) }
end

-- Steps --------------------------------------------------------------------------------------------------------------

local matrices = {}

-- [n, n]: n/2 rows of the low-pass filter, n/2 of the high-pass, each two places after the one before, around the end.
local function matrix(family, n, dtype)
  local key = ("%s %d %s"):format(family, n, dtype)
  if matrices[key] then return matrices[key] end
  local h, rows = wavelet.filter(family), {}
  for i = 1, n do
    rows[i] = {}
    for j = 1, n do rows[i][j] = 0 end
  end
  for i = 1, n // 2 do
    for k = 1, #h do
      local column = (2 * i - 2 + k - #h // 2) % n + 1
      rows[i][column] = rows[i][column] + h[k]
      rows[n // 2 + i][column] = rows[n // 2 + i][column] + (k % 2 == 1 and 1 or -1) * h[#h + 1 - k]
    end
  end
  matrices[key] = core.keep(core.tensor(rows, { dtype = dtype }))
  return matrices[key]
end

-- Signals may be long, so they are not multiplied by matrices: the same steps as convolutions -----------------------

-- x [m, c, t] with `pad` more at both ends, around the end.
local function around(x, pad)
  local t = x:size(3)
  local copies = { x }
  for i = 1, (pad + t - 1) // t do copies[2 * i], copies[2 * i + 1] = x, x end
  local before = (#copies - 1) // 2 * t
  return core.op.cat(copies, 3):narrow(3, before - pad + 1, t + 2 * pad)
end

-- The filters by tap: h[k], and g[k] of the high band, k from 0; 0 outside.
local function taps(family)
  local list = wavelet.filter(family)
  local length = #list
  local function h(k) return list[k + 1] or 0 end
  local function g(k) return k % 2 == 0 and h(length - 1 - k) or -h(length - 1 - k) end
  return h, g, length
end

local kernels = setmetatable({}, { __mode = "v" }) -- the last ones used, until the collector comes

-- Weights of a convolution: down [2, 1, length], both bands; up [2, 2, taps], the even and the odd samples of both.
local function kernel(way, family, dtype)
  local key = ("%s %s %s"):format(way, family, dtype)
  if kernels[key] then return kernels[key] end
  local h, g, length = taps(family)
  local rows, reach = { { {}, {} }, { {}, {} } }, length // 4
  if way == "down" then
    rows = { { {} }, { {} } }
    for k = 0, length - 1 do rows[1][1][k + 1], rows[2][1][k + 1] = h(k), g(k) end
  else
    for phase = 0, 1 do
      for r = 0, 2 * reach do
        local k = phase - 1 + length // 2 + 2 * (reach - r)
        rows[phase + 1][1][r + 1], rows[phase + 1][2][r + 1] = h(k), g(k)
      end
    end
  end
  kernels[key] = core.keep(core.tensor(rows, { dtype = dtype }))
  return kernels[key]
end

local function signal_down(x, family)
  local n, c, t = table.unpack(x:shape())
  local weight = kernel("down", family, x:dtype())
  local y = core.op.conv1d(around(x:reshape(n * c, 1, t), weight:size(3) // 2 - 1), weight, nil, { stride = 2 })
  return y:select(2, 1):reshape(n, c, t // 2), y:select(2, 2):reshape(n, c, t // 2)
end

local function signal_up(low, detail, family)
  local n, c, t = table.unpack(low:shape())
  local weight = kernel("up", family, low:dtype())
  local both = core.op.cat({ low:reshape(n * c, 1, t), detail:reshape(n * c, 1, t) }, 2)
  local y = core.op.conv1d(around(both, weight:size(3) // 2), weight)
  return y:transpose(2, 3):reshape(n, c, 2 * t)
end

local function check_input(where, x, family)
  check.one_of(where, "family", family, wavelet.families)
  local rank = check.arg(where, "x", x, "tensor"):dim()
  if rank ~= 3 and rank ~= 4 then
    check.fail(where, "x is wrong: got %s, expected [n,c,t] or [n,c,h,w]", check.show(x))
  end
end

--- One step down, of haar.down's form.
---@param x hd.Tensor  [n, c, t] or [n, c, h, w], even extents
---@param family? string  "haar" (default), "db2" to "db8"
---@return hd.Tensor low     [n, c, t/2] or [n, c, h/2, w/2]
---@return hd.Tensor detail  [n, c, t/2], or [n, 3c, h/2, w/2]: across, down and diagonal
function wavelet.down(x, family)
  family = family or "haar"
  check_input("wavelet.down", x, family)
  if family == "haar" then return haar.down(x) end
  for d = 3, x:dim() do
    if x:size(d) % 2 ~= 0 then
      check.fail("wavelet.down", "an extent is odd: got [%s], expected even numbers to halve",
        table.concat(x:shape(), ","))
    end
  end
  if x:dim() == 3 then return signal_down(x, family) end
  local h, w = x:size(3), x:size(4)
  local y = x:matmul(matrix(family, w, x:dtype()):transpose(1, 2))
  y = matrix(family, h, x:dtype()):matmul(y)
  local low, high = y:narrow(3, 1, h // 2), y:narrow(3, h // 2 + 1, h // 2)
  local function left(z) return z:narrow(4, 1, w // 2) end
  local function right(z) return z:narrow(4, w // 2 + 1, w // 2) end
  return left(low):contiguous(), core.op.cat({ right(low), left(high), right(high) }, 2)
end

--- One step up: the inverse of wavelet.down.
---@param low hd.Tensor
---@param detail hd.Tensor
---@param family? string
---@return hd.Tensor
function wavelet.up(low, detail, family)
  family = family or "haar"
  check_input("wavelet.up", low, family)
  check.arg("wavelet.up", "detail", detail, "tensor")
  if family == "haar" then return haar.up(low, detail) end
  if low:dim() == 3 then return signal_up(low, detail, family) end
  local c, across = low:size(2), matrix(family, 2 * low:size(4), low:dtype())
  local function part(i) return detail:narrow(2, (i - 1) * c + 1, c) end
  local y = core.op.cat({ core.op.cat({ low, part(1) }, 4), core.op.cat({ part(2), part(3) }, 4) }, 3)
  return matrix(family, 2 * low:size(3), low:dtype()):transpose(1, 2):matmul(y:matmul(across))
end

--- Several steps down: the low band, and the details from coarse to fine.
---@param x hd.Tensor
---@param steps integer
---@param family? string
---@return hd.Tensor low
---@return hd.Tensor[] details
function wavelet.split(x, steps, family)
  check_input("wavelet.split", x, family or "haar")
  local details = {}
  for i = check.arg("wavelet.split", "steps", steps, "integer"), 1, -1 do x, details[i] = wavelet.down(x, family) end
  return x, details
end

--- The inverse of wavelet.split.
---@param low hd.Tensor
---@param details hd.Tensor[]  coarse to fine
---@param family? string
---@return hd.Tensor
function wavelet.join(low, details, family)
  for _, detail in ipairs(check.list("wavelet.join", "details", details, "tensor")) do
    low = wavelet.up(low, detail, family)
  end
  return low
end

return wavelet
