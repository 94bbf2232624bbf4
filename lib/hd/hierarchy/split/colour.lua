-- hd/hierarchy/split/colour.lua: opponent colours: luma and two chroma planes by an orthonormal rotation.
-- luma (R+G+B)/sqrt 3, red against blue (R-B)/sqrt 2, green against both (R-2G+B)/sqrt 6. White noise stays white.

local check = require "hd.check"
local core = require "hd.core"

local colour = {}
local A, B, C = math.sqrt(1 / 3), math.sqrt(1 / 2), math.sqrt(1 / 6)

--- RGB to luma and chroma.
---@param x hd.Tensor  [n, 3, h, w]
---@return hd.Tensor luma    [n, 1, h, w]
---@return hd.Tensor chroma  [n, 2, h, w]
function colour.split(x)
  if check.arg("colour.split", "x", x, "tensor"):dim() ~= 4 or x:size(2) ~= 3 then
    check.fail("colour.split", "x is wrong: got %s, expected [n,3,h,w]", check.show(x))
  end
  local r, g, b = x:narrow(2, 1, 1), x:narrow(2, 2, 1), x:narrow(2, 3, 1)
  return (r + g + b) * A, core.op.cat({ (r - b) * B, (r - g * 2 + b) * C }, 2)
end

--- Luma and chroma to RGB: the inverse of colour.split.
---@param luma hd.Tensor
---@param chroma hd.Tensor
---@return hd.Tensor
function colour.join(luma, chroma)
  check.arg("colour.join", "luma", luma, "tensor")
  check.arg("colour.join", "chroma", chroma, "tensor")
  local y, u, v = luma * A, chroma:narrow(2, 1, 1) * B, chroma:narrow(2, 2, 1) * C
  return core.op.cat({ y + u + v, y - v * 2, y - u + v }, 2)
end

return colour
