-- hd/data/augment.lua: standard augmentation: pictures turned, moved and scaled a little, each by chance.
-- Mirroring is an option of batches, which do it ahead. Calls: core, hd.check. Called by: users, hd.data.loader.

local core = require "hd.core"
local check = require "hd.check"

local augment = {}

local OPTIONS = {
  { "degrees", "number", 10 }, { "translate", "number", 0.1 }, { "scale", "number", 0.1 }, { "rng", "any" },
}

--- Checked options, with defaults.
---@param where string
---@param opts table?
---@return table
function augment.check(where, opts)
  local o = check.options(where, opts, OPTIONS)
  for key, largest in next, { degrees = 180, translate = 1, scale = 0.9 } do -- order free: any fault will do
    if not (o[key] >= 0 and o[key] <= largest) then
      check.fail(where, "%s is wrong: got %g, expected 0 to %g", key, o[key], largest)
    end
  end
  return o
end

-- [n, 1], even between -reach and reach.
local function draw(n, reach, rng) return (core.rand({ n, 1 }, { rng = rng }) * 2 - 1) * reach end

-- The first of the two pixels beside each coordinate, counted from 0, and how far it lies from it.
local function place(coordinate, extent)
  local within = coordinate:clamp(0, extent - 1)
  local first = within:floor():clamp(0, math.max(0, extent - 2))
  return first, within - first
end

--- What augment.pictures does, by checked options.
---@param x hd.Tensor  f32 [n, channels, height, width]
---@param o table
---@return hd.Tensor
function augment.warp(x, o)
  local n, c, h, w = x:size(1), x:size(2), x:size(3), x:size(4)
  local angle, scale = draw(n, math.rad(o.degrees), o.rng), draw(n, o.scale, o.rng) + 1
  local right, down = draw(n, o.translate * w, o.rng), draw(n, o.translate * h, o.rng)
  local middle_x, middle_y = (w - 1) / 2, (h - 1) / 2
  local u = (core.arange(0, w - 1):to "f32" - middle_x):view(1, w):expand(h, w):reshape(1, h * w)
  local v = (core.arange(0, h - 1):to "f32" - middle_y):view(h, 1):expand(h, w):reshape(1, h * w)
  local cos, sin = angle:cos() / scale, angle:sin() / scale
  local x0, fx = place(cos * u + sin * v + middle_x - right, w)
  local y0, fy = place(cos * v - sin * u + middle_y - down, h)
  local index = (y0 * w + x0 + 1):to "i64":unsqueeze(2):expand(n, c, h * w)
  local flat = x:reshape(n, c, h * w)
  local one, row = math.min(1, w - 1), h > 1 and w or 0
  fx, fy = fx:unsqueeze(2), fy:unsqueeze(2)
  local function between(a, b, share) return a + (b - a) * share end
  local top = between(flat:gather(3, index), flat:gather(3, index + one), fx)
  local bottom = between(flat:gather(3, index + row), flat:gather(3, index + (row + one)), fx)
  return between(top, bottom, fy):reshape(n, c, h, w)
end

--- Turn, move and scale each picture by chance, between pixels bilinear; what comes in at the sides repeats the border.
--- Names and meaning of torchvision's RandomAffine, with milder defaults.
---@param x hd.Tensor  f32 [n, channels, height, width]
---@param opts? table  degrees: at most so far to either side (10); translate: at most this share of a side (0.1);
---  scale: by at most this share larger or smaller (0.1); rng (the default generator)
---@return hd.Tensor  of x's shape
function augment.pictures(x, opts)
  check.arg("data.augment", "x", x, "tensor")
  if x:dtype() ~= "f32" or x:dim() ~= 4 or x:numel() == 0 then
    check.fail("data.augment", "x is wrong: got %s, expected f32 [n,channels,height,width]", check.show(x))
  end
  return augment.warp(x, augment.check("data.augment", opts))
end

return augment
