-- hd/tensor.lua: methods of tensors that need no C of their own: max and min, std, splitting, stacking.
-- Calls: core.op. Called by: hd.lua; the methods by everybody.

local check = require "hd.check"
local core = require "hd.core"
local op, methods = core.op, core.methods
local tensor = {}

-- Largest or smallest elements along a dimension, with their positions.
local function extremum(all, position)
  return function(x, dim, keepdim)
    if dim == nil then return all(x) end
    local index = position(x, dim, true)
    local value = op.gather(x, dim, index)
    if keepdim then return value, index end
    return value:squeeze(dim), index:squeeze(dim)
  end
end

--- Largest element; with a dimension: the largest along it and their 1-based positions.
---@param x hd.Tensor
---@param dim? integer
---@param keepdim? boolean
---@return hd.Tensor values
---@return hd.Tensor? positions  i64
function methods.max(x, dim, keepdim) return tensor.max(x, dim, keepdim) end
tensor.max = extremum(op.amax, op.argmax)

--- Smallest element; with a dimension: the smallest along it and their 1-based positions.
---@param x hd.Tensor
---@param dim? integer
---@param keepdim? boolean
---@return hd.Tensor values
---@return hd.Tensor? positions  i64
function methods.min(x, dim, keepdim) return tensor.min(x, dim, keepdim) end
tensor.min = extremum(op.amin, op.argmin)

--- Standard deviation over dims (nil: all), divided by n - 1 unless {unbiased = false}.
---@param x hd.Tensor
---@param ... any  as x:var
---@return hd.Tensor
function methods.std(x, ...) return op.var(x, ...):sqrt() end

--- Parts of at most `size` elements along dim (default 1), or of the sizes of a list.
---@param x hd.Tensor
---@param size integer|integer[]
---@param dim? integer
---@return hd.Tensor[]
function methods.split(x, size, dim)
  dim = dim or 1
  local parts, start, extent = {}, 1, check.arg("split", "x", x, "tensor"):size(dim)
  if type(size) == "table" then
    for i, length in ipairs(size) do
      parts[i] = x:narrow(dim, start, length)
      start = start + length
    end
    if start ~= extent + 1 then
      check.fail("split", "sizes add up to %d, expected %d, the extent of dimension %d", start - 1, extent, dim)
    end
    return parts
  end
  if check.arg("split", "size", size, "integer") < 1 then
    check.fail("split", "size is wrong: got %d, expected at least 1", size)
  end
  while start <= extent do
    parts[#parts + 1] = x:narrow(dim, start, math.min(size, extent - start + 1))
    start = start + size
  end
  return parts
end

--- n parts along dim (default 1) of equal size, the last one smaller where n does not divide.
---@param x hd.Tensor
---@param n integer
---@param dim? integer
---@return hd.Tensor[]
function methods.chunk(x, n, dim)
  if check.arg("chunk", "n", n, "integer") < 1 then
    check.fail("chunk", "n is wrong: got %d, expected at least 1", n)
  end
  check.arg("chunk", "x", x, "tensor")
  return x:split(math.max(1, (x:size(dim or 1) + n - 1) // n), dim)
end

--- x repeated repeats[d] times along each dimension d; leading dimensions are added where there are more numbers.
---@param x hd.Tensor
---@param ... integer|integer[]
---@return hd.Tensor
function methods.tile(x, ...)
  check.arg("tile", "x", x, "tensor")
  local first = ...
  local repeats = type(first) == "table" and first or { ... }
  for _ = x:dim() + 1, #repeats do x = x:unsqueeze(1) end
  local lead = x:dim() - #repeats
  for i, times in ipairs(repeats) do
    if check.arg("tile", "repeats[" .. i .. "]", times, "integer") < 0 then
      check.fail("tile", "repeats[%d] is wrong: got %d, expected at least 0", i, times)
    end
    local d, shape, wide = lead + i, x:shape(), x:unsqueeze(lead + i):shape()
    shape[d], wide[d] = shape[d] * times, times
    if times ~= 1 then x = x:unsqueeze(d):expand(wide):reshape(shape) end
  end
  return x
end

--- value where mask (bool) holds, x elsewhere.
---@param x hd.Tensor
---@param mask hd.Tensor
---@param value number|hd.Tensor
---@return hd.Tensor
function methods.masked_fill(x, mask, value) return op.where(mask, value, x) end

--- Set every element to a number, in place.
---@param x hd.Tensor
---@param value number
---@return hd.Tensor x
function methods.fill_(x, value) return check.arg("fill_", "x", x, "tensor"):copy_(value) end

--- Set every element to 0, in place.
---@param x hd.Tensor
---@return hd.Tensor x
function methods.zero_(x) return check.arg("zero_", "x", x, "tensor"):copy_(0) end

--- The number of dimensions; the same as x:dim().
---@param x hd.Tensor
---@return integer
function methods.ndim(x) return check.arg("ndim", "x", x, "tensor"):dim() end

--- Tensors of one shape joined along a new dimension (default 1).
---@param xs hd.Tensor[]
---@param dim? integer
---@return hd.Tensor
function tensor.stack(xs, dim)
  local parts = {}
  for i, x in ipairs(check.arg("stack", "xs", xs, "table")) do
    parts[i] = check.arg("stack", "xs[" .. i .. "]", x, "tensor"):unsqueeze(dim or 1)
  end
  return op.cat(parts, dim or 1)
end

return tensor
