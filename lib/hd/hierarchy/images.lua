-- hd/hierarchy/images.lua: the shipped hierarchy of pictures: shapes, colours, textures.
--   shapes    the low band of luma after `steps` Haar steps: [1, s/4, s/4] for two
--   colours   the low band of both chroma planes: [2, s/4, s/4]
--   textures  everything else: the detail bands of luma and chroma, folded to the same grid: [45, s/4, s/4]
-- Grey pictures (channels = 1) have no colours, and a third of the details.
-- All maps are orthonormal: as many numbers as pixels, and white noise stays white. Sizes that 2^steps does not divide
-- are first reflected beyond their lower and right ends; join crops them again.

local check = require "hd.check"
local core = require "hd.core"
local haar = require "hd.hierarchy.split.haar"
local colour = require "hd.hierarchy.split.colour"
local wavelet = require "hd.hierarchy.split.wavelet"
local schedule = require "hd.schedule"

-- split and join for `steps` steps of a wavelet.
local function maps(steps, family, channels)
  local coloured = channels == 3
  local function split(x)
    local low, details = wavelet.split(coloured and core.op.cat({ colour.split(x) }, 2) or x, steps, family)
    local parts = {}
    for i, detail in ipairs(details) do parts[i] = haar.fold(detail, 2 ^ (i - 1) // 1) end
    return { shapes = coloured and low:narrow(2, 1, 1) or low, colours = coloured and low:narrow(2, 2, 2) or nil,
      textures = core.op.cat(parts, 2) }
  end
  local function join(z)
    local details, start = {}, 1
    for i = 1, steps do
      local factor = 2 ^ (i - 1) // 1
      local count = 3 * channels * factor * factor
      details[i] = haar.unfold(z.textures:narrow(2, start, count), factor)
      start = start + count
    end
    local all = wavelet.join(coloured and core.op.cat({ z.shapes, z.colours }, 2) or z.shapes, details, family)
    return coloured and colour.join(all:narrow(2, 1, 1), all:narrow(2, 2, 2)) or all
  end
  return split, join
end

-- The first `size` pixels mirrored at the end, up to `whole`: 1 2 3 4 3 2 for 4 and 6.
local function reflected(size, whole)
  local list = {}
  for i = 0, whole - 1 do
    local k = i % math.max(1, 2 * size - 2)
    list[i + 1] = (k < size and k or 2 * size - 2 - k) + 1
  end
  return core.keep(core.tensor(list, { dtype = "i64" }))
end

-- split and join for pictures of size x size by those for whole x whole.
local function cropped(split, join, size, whole)
  if size == whole then return split, join end
  local index = reflected(size, whole)
  return function(x)
    return split(x:index_select(3, index):index_select(4, index))
  end, function(z)
    return join(z):narrow(3, 1, size):narrow(4, 1, size):contiguous()
  end
end

-- The coordinates in which the network of textures works: the picture that the details make alone, where neighbours
-- are neighbours. (In the folded bands themselves it learns far slower: loss 0.89 against 0.66 after 100 steps.)
local function picture_frame(split, join)
  local function to(z)
    local s = z:shape()
    local function blank(channels) return core.zeros({ s[1], channels, s[3], s[4] }, { dtype = z:dtype() }) end
    return join { shapes = blank(1), colours = blank(2), textures = z } -- where there are no colours they are not read
  end
  local function from(x) return split(x).textures end
  return { to = to, from = from }
end

-- hd.hierarchy.images (init.lua).
return function(Hierarchy, opts)
  local o = check.options("hierarchy.images", opts, {
    { "size", "integer", 32 }, { "channels", "integer", 3 }, { "steps", "integer", 2 },
    { "regime", Hierarchy.regimes, "cascade" },
    { "schedule", "table" }, { "predict", "string", "edm" }, { "t_aug", "number", 0.3 },
    { "t_aug_sample", "number", 0 }, { "wavelet", wavelet.families, "haar" }, { "lag", "number" },
  })
  local unit = 2 ^ o.steps // 1
  if o.steps < 1 or o.size < unit then
    check.fail("hierarchy.images", "size is wrong: got %d, expected at least %.0f (2^steps)", o.size, unit)
  end
  if o.channels ~= 1 and o.channels ~= 3 then
    check.fail("hierarchy.images", "channels is wrong: got %d, expected 1 or 3", o.channels)
  end
  local whole = math.tointeger((o.size + unit - 1) // unit * unit)
  local inner_split, inner_join = maps(o.steps, o.wavelet, o.channels)
  local split, join = cropped(inner_split, inner_join, o.size, whole)
  -- Neighbours in the coarse levels say much the same, so what a picture is gets decided under strong noise: their
  -- training looks there more often.
  local coarse = o.schedule or schedule.karras { p_mean = 0, p_std = 1.2 }
  local function level(name, fields)
    fields.name, fields.predict = name, o.predict
    fields.schedule = fields.schedule or o.schedule
    return fields
  end
  local levels = {
    level("shapes", { schedule = coarse }), level("colours", { schedule = coarse }),
    -- on the grid of the picture, where a channel costs sixteen times as much
    level("textures", { frame = picture_frame(inner_split, inner_join), width = 0.5 }),
  }
  if o.channels == 1 then table.remove(levels, 2) end
  local H = Hierarchy {
    name = "images", split = split, join = join, shape = { o.channels, o.size, o.size }, regime = o.regime,
    range = { -1, 1 }, t_aug = o.t_aug, t_aug_sample = o.t_aug_sample, lag = o.lag, levels = levels,
  }
  H.crop = { size = o.size, whole = whole }
  return H
end
