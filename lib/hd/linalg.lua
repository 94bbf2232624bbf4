-- hd/linalg.lua: hd.linalg, decompositions of matrices. Calls: core. Called by: hd.metrics, users.

local core = require "hd.core"

local linalg = { eigh = core.eigh }

--- The square root of a symmetric matrix without negative eigenvalues: the symmetric y with y y = x. Eigenvalues
--- below 0 (rounding) count as 0.
---@param x hd.Tensor  [n, n] f32 or f64
---@return hd.Tensor   [n, n]
function linalg.sqrtm(x)
  local values, vectors = core.eigh(x)
  return (vectors * values:clamp(0):sqrt()):matmul(vectors:transpose(1, 2))
end

return linalg
