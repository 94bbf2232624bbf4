-- hd/metrics/gaussian.lua: distances of two sets of features by their moments. Calls: core, hd.linalg.
-- Pure functions of two tensors [n, d] and [m, d]; computed in f64.

local core = require "hd.core"
local linalg = require "hd.linalg"

local gaussian = {}
local CHUNK = 1024 -- rows at once: a block of the kernel's matrix stays small

-- Mean [d] and covariance [d, d], divided by n - 1.
local function moments(x)
  x = x:to "f64"
  local mean = x:mean(1)
  local centred = x - mean
  return mean, centred:transpose(1, 2):matmul(centred) / (x:size(1) - 1)
end

local function trace(x) return (x * core.eye(x:size(1), { dtype = x:dtype() })):sum():item() end

--- Squared distance of two normal distributions: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)). The last root's trace is
--- that of (C1^(1/2) C2 C1^(1/2))^(1/2), whose eigenvalues are real.
---@param m1 hd.Tensor  [d] f64
---@param c1 hd.Tensor  [d, d]
---@param m2 hd.Tensor
---@param c2 hd.Tensor
---@return number
function gaussian.of_moments(m1, c1, m2, c2)
  local root = linalg.sqrtm(c1)
  local values = linalg.eigh(root:matmul(c2):matmul(root))
  local spread = trace(c1) + trace(c2) - 2 * values:clamp(0):sqrt():sum():item()
  return math.max(0, (m1 - m2):square():sum():item() + spread)
end

function gaussian.frechet(a, b)
  local m1, c1 = moments(a)
  return gaussian.of_moments(m1, c1, moments(b))
end

-- The sum of k(x, y) = (x.y / d + 1)^3 over all pairs of rows; without those of a row with itself where a is b.
local function kernel_sum(a, b)
  local sum, d = 0, a:size(2)
  local other = b:transpose(1, 2) / d
  for first = 1, a:size(1), CHUNK do
    local rows = a:narrow(1, first, math.min(CHUNK, a:size(1) - first + 1))
    sum = sum + ((rows:matmul(other) + 1) ^ 3):sum():item()
  end
  if rawequal(a, b) then sum = sum - ((a:square():sum(2) / d + 1) ^ 3):sum():item() end
  return sum
end

function gaussian.kernel(a, b)
  a, b = a:to "f64", b:to "f64"
  local n, m = a:size(1), b:size(1)
  return kernel_sum(a, a) / (n * (n - 1)) + kernel_sum(b, b) / (m * (m - 1)) - 2 * kernel_sum(a, b) / (n * m)
end

return gaussian
