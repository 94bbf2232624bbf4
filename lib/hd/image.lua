-- hd/image.lua: pictures as tensors [channels, height, width]: bytes (u8), or f32 where -1 is black and 1 white.
-- Calls: core, hd.check. Called by: hd.lua, hd.data, hd.plot, hd.run.

local core = require "hd.core"
local check = require "hd.check"
local digest = require "hd.digest"

local image = {}

--- Read a PNG or JPEG file.
--- Sizes are those of the stored pixels (no EXIF rotation); alpha is dropped unless asked for.
---@param path string
---@param opts? {channels?: integer, dtype?: string}  channels: 1 grey, 2 grey and alpha, 3 RGB (the default), 4 RGBA,
---  0 as stored; dtype: "f32" in [-1,1] (the default) or "u8"
---@return hd.Tensor? picture  [channels, height, width]; nil and a message where it cannot be read
---@return string? message
function image.load(path, opts)
  check.arg("image.load", "path", path, "string")
  local o = check.options("image.load", opts, {
    { "channels", "integer", 3 },
    { "dtype", { "f32", "u8", "float32", "uint8" }, "f32" },
  })
  if o.channels < 0 or o.channels > 4 then
    check.fail("image.load", "option 'channels' is wrong: got %d, expected 0 to 4", o.channels)
  end
  local x, message = core.image_load(path, o.channels, o.dtype:sub(1, 1) == "f")
  if not x then return nil, "image.load: " .. message end
  return x
end

-- One tEXt chunk: a keyword and a text, before the end of a PNG file (its last 12 bytes).
-- Source: PNG, ISO/IEC 15948, 11.3.4.3.
local function with_comment(png, text)
  local body = "tEXtComment\0" .. text
  local chunk = string.pack(">I4", #body - 4) .. body .. string.pack(">I4", digest.crc32(body))
  return png:sub(1, -13) .. chunk .. png:sub(-12)
end

--- Write a PNG file, whole or not at all.
---@param path string  ending in .png
---@param x hd.Tensor  [channels, height, width] or [height, width], u8, or f32 in [-1,1] (values outside are clipped);
---  1 to 4 channels
---@param opts? {comment?: string}  a text kept in the file: printable ASCII
---@return boolean? done  true, or nil and a message
---@return string? message
function image.save(path, x, opts)
  check.arg("image.save", "path", path, "string")
  check.arg("image.save", "x", x, "tensor")
  local o = check.options("image.save", opts, { { "comment", "string" } })
  if o.comment and o.comment:find "[^\32-\126]" then
    check.fail("image.save", "the comment is wrong: got %s, expected printable ASCII", check.show(o.comment))
  end
  if not path:lower():find "%.png$" then
    check.fail("image.save", "the extension is wrong: got '%s', expected a name that ends in .png", path)
  end
  local png = core.image_encode(x)
  local done, message = core.file_write(path, o.comment and with_comment(png, o.comment) or png)
  if not done then return nil, message end
  return true
end

--- Change a picture's size. Shrinking averages exactly over the area of each new pixel, enlarging is bilinear.
---@param x hd.Tensor  [channels, height, width] or [height, width]
---@param size integer|integer[]  the new height and width, or {height, width}
---@return hd.Tensor picture  of x's type
function image.resize(x, size)
  check.arg("image.resize", "x", x, "tensor")
  local extents = check.extents("image.resize", "size", size, 2)
  return core.image_resize(x, extents[1], extents[2])
end

--- Put pictures side by side on a white ground.
---@param x hd.Tensor  [n, channels, height, width], u8 or f32
---@param opts? {columns?: integer, pad?: integer}  columns: as many as make the grid square; pad: white pixels around
---  each picture (default 2)
---@return hd.Tensor picture  [channels, height, width] of x's type
function image.grid(x, opts)
  check.arg("image.grid", "x", x, "tensor")
  if x:dim() ~= 4 or x:size(1) < 1 then
    check.fail("image.grid", "x is wrong: got %s, expected [n,channels,height,width]", check.show(x))
  end
  local n, c, h, w = x:size(1), x:size(2), x:size(3), x:size(4)
  local o = check.options("image.grid", opts, {
    { "columns", "integer", math.ceil(math.sqrt(n)) },
    { "pad", "integer", 2 },
  })
  if o.columns < 1 or o.pad < 0 then
    check.fail("image.grid", "columns or pad is wrong: got %d and %d, expected 1 and 0 or more", o.columns, o.pad)
  end
  local rows, pad = math.ceil(n / o.columns), o.pad
  local white = x:dtype() == "u8" and 255 or 1
  local out = core.full({ c, rows * (h + pad) + pad, o.columns * (w + pad) + pad }, white, { dtype = x:dtype() })
  for i = 0, n - 1 do
    local top, left = pad + i // o.columns * (h + pad) + 1, pad + i % o.columns * (w + pad) + 1
    out[{ {}, { top, top + h - 1 }, { left, left + w - 1 } }] = x[i + 1]:detach()
  end
  return out
end

return image
