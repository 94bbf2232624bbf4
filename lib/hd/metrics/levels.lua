-- hd/metrics/levels.lua: figures of single levels of a hierarchy. Calls: metrics/sliced, pictures; hd.hierarchy.

local check = require "hd.check"
local pictures = require "hd.metrics.pictures"
local sliced = require "hd.metrics.sliced"

local levels = {}

--- The gaussian levels of x in standardised coordinates: { name = z }, and their names from coarse to fine.
---@param H hd.hierarchy.Hierarchy
---@param x hd.Tensor
---@return table<string, hd.Tensor> z
---@return string[] names
function levels.of(H, x)
  local z, names, out = H:split(x), {}, {}
  for _, level in ipairs(H.levels) do
    if level.kind == "gaussian" then
      names[#names + 1] = level.name
      out[level.name] = H:standardise(level.name, z[level.name])
    end
  end
  return out, names
end

--- A level as the pictures in which its network sees it, nil where it has no two extents of 4 or more.
---@param H hd.hierarchy.Hierarchy
---@param name string
---@param z hd.Tensor
---@return hd.Tensor?
function levels.picture(H, name, z)
  local frame = H:level(name).frame
  local x = frame and frame.to(z) or z
  return x:dim() == 4 and x:size(3) >= 4 and x:size(4) >= 4 and x or nil
end

-- Level `name` of n samples whose coarser levels are those of `real`, or drawn too. Finer ones are left out where the
-- regime draws level after level.
local function drawn(H, models, name, real, o, held)
  local regime = o.sample.regime or (models and models.regime) or H.regime
  local sampling = { seed = o.seed, stop_after = regime == "cascade" and name or nil, hold = held and {} or nil }
  for key, value in next, o.sample do sampling[key] = value end -- order free: separate keys
  for _, level in ipairs(H.levels) do
    if level.name == name then break end
    if held then sampling.hold[level.name] = held[level.name] end
  end
  return levels.of(H, (H:sample(models, real:size(1), sampling)))[name]
end

--- Distances of one level drawn with the real coarser levels and with drawn ones to the real level, projected.
---@return number given
---@return number sampled
function levels.gap(H, models, name, real, o)
  local held = H:split(real)
  local truth = levels.of(H, real)[name]
  local function distance(z)
    return sliced.distance(sliced.project(truth, o.projections, o.seed), sliced.project(z, o.projections, o.seed))
  end
  return distance(drawn(H, models, name, real, o, held)), distance(drawn(H, models, name, real, o))
end

--- A batch [n, ...] in [-1, 1] from a tensor or a set; an error where it is something else.
---@param where string
---@param name string
---@param x any
---@return hd.Tensor
function levels.batch(where, name, x)
  if type(x) == "table" and check.is_tensor(x.x) then x = x.x end
  check.arg(where, name, x, "tensor")
  if x:dim() < 2 then check.fail(where, "%s is wrong: got %s, expected [n,...]", name, check.show(x)) end
  if x:dtype() == "u8" then return x:to "f32" * (1 / 127.5) - 1 end
  if x:dtype() ~= "f64" and x:dtype() ~= "f32" then
    check.fail(where, "%s is wrong: got %s, expected u8, or floats in [-1,1]", name, check.show(x))
  end
  return x
end

--- Spectra of one level, rows of pictures.spectrum; nil where the level is no picture.
function levels.spectra(H, name, a, b)
  local p, q = levels.picture(H, name, a), levels.picture(H, name, b)
  if p then return pictures.spectrum(p), pictures.spectrum(q) end
end

return levels
