-- hd/hierarchy/split/haar.lua: orthonormal Haar steps on signals [n, c, t] and pictures [n, c, h, w].
-- One step halves the extents: pairs (squares) of neighbours become their scaled sum, the low band, and their scaled
-- differences, the details, three to a channel for pictures. White noise stays white.
-- Source: Haar 1910; the two-dimensional form is the tensor product (Mallat 1989).

local check = require "hd.check"
local core = require "hd.core"

local haar = {}
local HALF, ROOT = 0.5, math.sqrt(0.5)

local function check_rank(where, x, least)
  local n = check.arg(where, "x", x, "tensor"):dim()
  if n < least or n > 4 then
    check.fail(where, "x is wrong: got %s, expected %s[n,c,h,w]", check.show(x), least < 4 and "[n,c,t] or " or "")
  end
end

local function even(where, x, d)
  if x:size(d) % 2 ~= 0 then
    check.fail(where, "an extent is odd: got [%s], expected even numbers to halve", table.concat(x:shape(), ","))
  end
end

local function check_factor(where, factor)
  check.arg(where, "factor", factor, "integer")
  if factor < 1 or factor > 32768 then
    check.fail(where, "factor is wrong: got %d, expected 1 to 32768", factor)
  end
end

-- Every second element of the last dimensions, as views: { a, b } of a signal, { a, b, c, d } of a picture.
local function phases(x)
  local s = x:shape()
  if #s == 3 then
    local p = x:reshape(s[1], s[2], s[3] // 2, 2)
    return { p:select(4, 1), p:select(4, 2) }
  end
  local p = x:reshape(s[1], s[2], s[3] // 2, 2, s[4] // 2, 2)
  local top, bottom = p:select(4, 1), p:select(4, 2)
  return { top:select(5, 1), top:select(5, 2), bottom:select(5, 1), bottom:select(5, 2) }
end

-- The inverse of phases.
local function interleave(parts)
  local s = parts[1]:shape()
  local last = {}
  for i, p in ipairs(parts) do last[i] = p:unsqueeze(-1) end
  if #s == 3 then return core.op.cat(last, 4):reshape(s[1], s[2], 2 * s[3]) end
  local top, bottom = core.op.cat({ last[1], last[2] }, 5), core.op.cat({ last[3], last[4] }, 5)
  return core.op.cat({ top:unsqueeze(4), bottom:unsqueeze(4) }, 4):reshape(s[1], s[2], 2 * s[3], 2 * s[4])
end

--- One step down.
---@param x hd.Tensor  [n, c, t] or [n, c, h, w], even extents
---@return hd.Tensor low     [n, c, t/2] or [n, c, h/2, w/2]
---@return hd.Tensor detail  [n, c, t/2], or [n, 3c, h/2, w/2]: across, down and diagonal differences
function haar.down(x)
  check_rank("haar.down", x, 3)
  for d = 3, x:dim() do even("haar.down", x, d) end
  local p = phases(x)
  if #p == 2 then return (p[1] + p[2]) * ROOT, (p[1] - p[2]) * ROOT end
  local top, bottom = p[1] + p[2], p[3] + p[4]
  local left, right = p[1] - p[2], p[3] - p[4]
  return (top + bottom) * HALF, core.op.cat({ left + right, top - bottom, left - right }, 2) * HALF
end

--- One step up: the inverse of haar.down.
---@param low hd.Tensor
---@param detail hd.Tensor
---@return hd.Tensor
function haar.up(low, detail)
  check_rank("haar.up", low, 3)
  check.arg("haar.up", "detail", detail, "tensor")
  if low:dim() == 3 then return interleave { (low + detail) * ROOT, (low - detail) * ROOT } end
  local c = low:size(2)
  local across, down, diagonal = detail:narrow(2, 1, c), detail:narrow(2, c + 1, c), detail:narrow(2, 2 * c + 1, c)
  local top, bottom = low + down, low - down
  local left, right = across + diagonal, across - diagonal
  return interleave { (top + left) * HALF, (top - left) * HALF, (bottom + right) * HALF, (bottom - right) * HALF }
end

--- Several steps down: the low band, and the details from coarse to fine.
---@param x hd.Tensor
---@param steps integer
---@return hd.Tensor low
---@return hd.Tensor[] details
function haar.split(x, steps)
  local details = {}
  check.arg("haar.split", "x", x, "tensor")
  steps = check.arg("haar.split", "steps", steps, "integer")
  if steps > 62 then check.fail("haar.split", "steps is wrong: got %d, expected at most 62", steps) end
  for i = steps, 1, -1 do x, details[i] = haar.down(x) end
  return x, details
end

--- The inverse of haar.split.
---@param low hd.Tensor
---@param details hd.Tensor[]  coarse to fine
---@return hd.Tensor
function haar.join(low, details)
  check.arg("haar.join", "low", low, "tensor")
  for _, detail in ipairs(check.list("haar.join", "details", details, "tensor")) do low = haar.up(low, detail) end
  return low
end

--- A square of 2^k positions becomes channels: a permutation, so still orthonormal.
---@param x hd.Tensor    [n, c, h, w]
---@param factor integer
---@return hd.Tensor     [n, c factor^2, h / factor, w / factor]
function haar.fold(x, factor)
  check_rank("haar.fold", x, 4)
  check_factor("haar.fold", factor)
  if factor == 1 then return x end
  local s = x:shape()
  return x:reshape(s[1], s[2], s[3] // factor, factor, s[4] // factor, factor):permute(1, 2, 4, 6, 3, 5)
    :reshape(s[1], s[2] * factor * factor, s[3] // factor, s[4] // factor)
end

--- The inverse of haar.fold.
---@param x hd.Tensor
---@param factor integer
---@return hd.Tensor
function haar.unfold(x, factor)
  check_rank("haar.unfold", x, 4)
  check_factor("haar.unfold", factor)
  if factor == 1 then return x end
  local s = x:shape()
  local c = s[2] // (factor * factor)
  return x:reshape(s[1], c, factor, factor, s[3], s[4]):permute(1, 2, 5, 3, 6, 4)
    :reshape(s[1], c, s[3] * factor, s[4] * factor)
end

return haar
