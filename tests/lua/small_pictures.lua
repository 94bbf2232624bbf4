-- tests/lua/small_pictures.lua: what the specs of hierarchies share: small pictures, their hierarchy, networks.

local core = require "hd.core"
local hierarchy = require "hd.hierarchy"
local data = require "hd.data"

local M = {}

function M.message(fn, ...)
  local ok, text = pcall(fn, ...)
  assert(not ok, "no error")
  return tostring(text)
end

function M.shape_of(x) return table.concat(x:shape(), ",") end

-- The L2 distance of two tensors, relative to the second.
function M.distance(a, b) return (a - b):norm():item() / math.max(1e-30, b:norm():item()) end

M.set = data.shapes { size = 8, n = 64 }
M.x = M.set.x:to "f32" * (1 / 127.5) - 1

function M.pictures(opts) return hierarchy.images { size = 8, regime = opts and opts.regime }:fit_stats(M.set) end

-- Networks with random weights: the last layer begins at zero, which would hide mistakes.
function M.random_models(H, opts)
  core.seed(2)
  local o = { width = 8 }
  for key, value in next, opts or {} do o[key] = value end
  local models = H:models(o)
  core.no_grad(function()
    for _, p in ipairs(models:parameters()) do p:add_(core.randn(p:shape()) * 0.05) end
  end)
  return models
end

-- Networks that note what they are told: calls[i] = { x, t, cond }; they give zeros.
function M.watched(H, opts)
  local calls, specs = {}, {}
  local o = { net = function(spec)
    specs[#specs + 1] = spec
    return function(z, t, cond)
      calls[#calls + 1] = { x = z, t = t, cond = cond }
      for _, told in next, cond do core.keep(told) end -- longer than the sampler's step
      return z * 0
    end
  end }
  for key, value in next, opts or {} do o[key] = value end
  return H:models(o), calls, specs
end

return M
