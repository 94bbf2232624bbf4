-- hd/hierarchy/context.lua: what a level's network sees of coarser levels, and one call of a network.

local core = require "hd.core"

local context = {}

-- z [n, c, ...] on the grid of `extents`: repeated where it is coarser, averaged where it is finer.
local function on_grid(z, extents)
  local size = table.move(z:shape(), 3, z:dim(), 1, {})
  local same, finer = true, true
  for d, e in ipairs(extents) do
    same = same and size[d] == e
    finer = finer and size[d] > e
  end
  if same then return z end
  if not finer then return core.op.interpolate(z, { size = extents, mode = "nearest" }) end
  local kernel = {}
  for d, e in ipairs(extents) do kernel[d] = size[d] // e end
  return (#extents == 1 and core.op.avg_pool1d or core.op.avg_pool2d)(z, kernel)
end

--- The context of a level as one tensor on the network's grid, nil where there is none.
---@param level hd.hierarchy.Level
---@param z table<string, hd.Tensor>  standardised levels, noised as the caller wants the network to see them
---@param like hd.Tensor              what the network works on: [n, c, ...]
---@return hd.Tensor?
function context.gather(level, z, like)
  if #level.context == 0 then return nil end
  local extents, parts = table.move(like:shape(), 3, like:dim(), 1, {}), {}
  for i, name in ipairs(level.context) do parts[i] = on_grid(z[name]:to(like:dtype()), extents) end
  return #parts == 1 and parts[1] or core.op.cat(parts, 2)
end

-- More channels of zeros, up to `channels`.
local function padded(x, channels)
  local missing = channels - x:size(2)
  if missing == 0 then return x end
  local shape = x:shape()
  shape[2] = missing
  return core.op.cat({ x, core.zeros(shape, { dtype = x:dtype() }) }, 2)
end

local function level_labels(level, n) return core.full({ n }, level.index, { dtype = "i64" }) end

--- Call a gaussian level's network: noisy z (already scaled) -> its prediction, both in the level's own coordinates.
--- `augmented` is how much noise the context carries, per sample or one number; the network is told it.
---@param models hd.hierarchy.Models
---@param level hd.hierarchy.Level
---@param z hd.Tensor
---@param time any
---@param levels table<string, hd.Tensor>  the context's levels
---@param augmented any
---@return hd.Tensor
function context.predict(models, level, z, time, levels, augmented)
  local frame = level.frame
  local x = frame and frame.to(z) or z
  local seen = context.gather(level, levels, x)
  local cond, channels, told = { context = seen }, x:size(2), time
  if seen then told = { time, augmented } end
  if models.share then
    cond.labels = level_labels(level, x:size(1))
    if models.context_in > 0 then
      cond.context = padded(seen or x:narrow(2, 1, 1) * 0, models.context_in)
      told = { time, seen and augmented or 0 }
    end
    x = padded(x, models.channels_in)
  end
  local y = models:net(level.name)(x, told, cond)
  if models.share then y = y:narrow(2, 1, channels) end
  return frame and frame.from(y) or y
end

--- Call a mask level's network: its logits [n, t, vocab] for the tokens z [n, t] (vocab + 1 is the mask), told the
--- share of masked tokens. The context's tokens stand in front of the level's own.
---@param models hd.hierarchy.Models
---@param level hd.hierarchy.Level
---@param z hd.Tensor
---@param time any
---@param levels table<string, hd.Tensor>
---@return hd.Tensor
function context.logits(models, level, z, time, levels)
  local parts, before = {}, 0
  for i, name in ipairs(level.context) do
    parts[i] = levels[name]
    before = before + levels[name]:size(2)
  end
  parts[#parts + 1] = z
  local tokens = #parts == 1 and z or core.op.cat(parts, 2)
  local told = models.share and { time, 100.0 * level.index } or time
  return models:net(level.name)(tokens, told):narrow(2, before + 1, z:size(2))
end

return context
