-- hd/plot.lua: charts and labelled grids as pictures (u8, [3, height, width]); write them with hd.image.save.
-- Drawn at twice the size into one plane of colour numbers, then averaged down, which smooths edges.
-- Calls: core, hd.image. Called by: examples, hd.run.

local check = require "hd.check"
local class = require "hd.class"
local core = require "hd.core"

local plot = {}

-- red, green, blue; the first three are ground, ink and grid lines, the others colours of curves
local PALETTE = {
  { 255, 255, 255 }, { 40, 40, 40 }, { 225, 225, 225 }, { 31, 119, 180 }, { 255, 127, 14 }, { 44, 160, 44 },
  { 214, 39, 40 }, { 148, 103, 189 }, { 140, 86, 75 }, { 227, 119, 194 }, { 23, 190, 207 },
}
local INK, LINES, FIRST_CURVE = 2, 3, 4

-- Canvas ----------------------------------------------------------------------------------------------------------
-- Coordinates are pixels of the doubled picture, 0-based, right and bottom outside.

local Canvas = class "Canvas"
local TEXT = 3 -- width of a letter's stroke; capitals are 7 strokes high

function Canvas:init(width, height)
  self.width, self.height = 2 * width, 2 * height
  self.plane = core.full({ self.height, self.width }, 1, { dtype = "i64" })
end

function Canvas:box(left, top, right, bottom, colour)
  left, top = math.max(0, left // 1 | 0), math.max(0, top // 1 | 0)
  right, bottom = math.min(self.width, right // 1 | 0), math.min(self.height, bottom // 1 | 0)
  if left < right and top < bottom then self.plane[{ { top + 1, bottom }, { left + 1, right } }] = colour end
end

-- Text with its top left at x, y; align 0, 0.5 or 1 puts x at its left, middle or right.
function Canvas:text(x, y, text, align, colour)
  local boxes, width = core.text_boxes(text)
  x = x - (align or 0) * width * TEXT
  for _, b in ipairs(boxes) do
    self:box(x + b[1] * TEXT, y + b[2] * TEXT, x + b[3] * TEXT, y + b[4] * TEXT, colour or INK)
  end
end

-- The canvas as a picture of half its size, by the palette.
function Canvas:picture()
  local palette = core.tensor(PALETTE)
  local x = core.op.embedding(self.plane, palette):permute(3, 1, 2):unsqueeze(1)
  return (core.op.avg_pool2d(x, 2):squeeze(1) + 0.5):floor():to "u8"
end

-- Numbers ---------------------------------------------------------------------------------------------------------

local function is_finite(v) return v == v and v ~= math.huge and v ~= -math.huge end

local function numbers(where, values)
  if check.is_tensor(values) then values = values:reshape(-1):totable() end
  return check.list(where, "values", values, "number")
end

-- About `count` round values over [low, high]: 1, 2 or 5 times a power of ten apart.
local function ticks(low, high, count)
  local rough = (high - low) / count
  local power = 10 ^ math.floor(math.log(rough, 10))
  local step = power
  for _, factor in ipairs { 2, 5, 10 } do
    if rough > step then step = factor * power end
  end
  local list, first = {}, math.ceil(low / step - 1e-9)
  for i = first, math.floor(high / step + 1e-9) do list[#list + 1] = i * step end
  return list
end

-- The same for a logarithmic axis: powers of ten, and 2 and 5 times them where there are few.
local function log_ticks(low, high)
  local list, few = {}, math.log(high / low, 10) < 2
  for exponent = math.floor(math.log(low, 10)), math.ceil(math.log(high, 10)) do
    for _, factor in ipairs(few and { 1, 2, 5 } or { 1 }) do
      local v = factor * 10.0 ^ exponent
      if v >= low * 0.999 and v <= high * 1.001 then list[#list + 1] = v end
    end
  end
  return list
end

local function label(v)
  if math.abs(v) >= 1e6 then return ("%.3g"):format(v) end
  if math.abs(v) >= 1e4 and v % 1000 == 0 then return ("%dk"):format(v // 1000) end
  return ("%.4g"):format(v)
end

-- Axes ------------------------------------------------------------------------------------------------------------

-- An axis from data to canvas: at(v) gives the pixel.
local function axis(low, high, from, to, log)
  if low == high then
    local margin = log and 2 or math.max(0.5, math.abs(low) * 0.1)
    low, high = log and low / margin or low - margin, log and high * margin or high + margin
  end
  local a, b = low, high
  if log then a, b = math.log(low), math.log(high) end
  return {
    low = low, high = high, log = log,
    at = function(v) return from + ((log and math.log(v) or v) - a) / (b - a) * (to - from) end,
  }
end

-- The smallest and largest drawable value of one coordinate over all series.
local function range(series, key, log)
  local low, high = math.huge, -math.huge
  for _, s in ipairs(series) do
    for _, v in ipairs(s[key]) do
      if is_finite(v) and (not log or v > 0) then low, high = math.min(low, v), math.max(high, v) end
    end
  end
  if low > high then return log and 1 or 0, log and 10 or 1 end
  return low, high
end

local function draw_axes(canvas, x, y, area, o)
  for _, v in ipairs(x.log and log_ticks(x.low, x.high) or ticks(x.low, x.high, 8)) do
    local p = x.at(v)
    canvas:box(p, area.top, p + 2, area.bottom, LINES)
    canvas:text(p, area.bottom + 8, label(v), 0.5)
  end
  for _, v in ipairs(y.log and log_ticks(y.low, y.high) or ticks(y.low, y.high, 6)) do
    local p = y.at(v)
    canvas:box(area.left, p, area.right, p + 2, LINES)
    canvas:text(area.left - 8, p - 10, label(v), 1)
  end
  canvas:box(area.left, area.top, area.left + 2, area.bottom, INK)
  canvas:box(area.left, area.bottom, area.right, area.bottom + 2, INK)
  canvas:text((area.left + area.right) / 2, area.bottom + 42, o.x_label, 0.5)
  canvas:text(area.left - 60, area.top - 34, o.y_label, 0)
  canvas:text((area.left + area.right) / 2, 16, o.title, 0.5)
end

-- Curves ----------------------------------------------------------------------------------------------------------

-- A running mean with the start corrected; share 0 leaves the values as they are.
local function smoothed(values, share)
  local out, sum, weight = {}, 0, 0
  for i, v in ipairs(values) do
    if is_finite(v) then sum, weight = share * sum + (1 - share) * v, share * weight + (1 - share) end
    out[i] = is_finite(v) and sum / weight or v
  end
  return out
end

-- Widen the span of column x to hold y.
local function widen(spans, x, y)
  local span = spans[x]
  if not span then
    spans[x] = { y, y }
  else
    span[1], span[2] = math.min(span[1], y), math.max(span[2], y)
  end
end

-- The span of pixels that a curve covers in each column of the canvas, however many points fall into it.
local function column_spans(s, x, y)
  local spans, px, py = {}, nil, nil
  for i, v in ipairs(s.y) do
    local ok = is_finite(v) and (not y.log or v > 0) and is_finite(s.x[i]) and (not x.log or s.x[i] > 0)
    local qx, qy = ok and x.at(s.x[i]), ok and y.at(v)
    if ok and px then
      local from, to = math.floor(px), math.floor(qx)
      for column = from, to, from <= to and 1 or -1 do
        local part = qx == px and 1 or math.max(0, math.min(1, (column + 0.5 - px) / (qx - px)))
        widen(spans, column, py + part * (qy - py))
      end
    end
    if ok then widen(spans, math.floor(qx), qy) end
    px, py = ok and qx or nil, qy
  end
  return spans
end

local function draw_curve(canvas, s, x, y, area, colour)
  local spans = column_spans(s, x, y)
  for column = area.left, area.right do
    local span, after = spans[column], spans[column + 1]
    if span then -- reach half way to the next column, so that steep curves have no gaps
      local low, high = span[1], span[2]
      if after and after[1] > high then high = after[1] elseif after and after[2] < low then low = after[2] end
      canvas:box(column - 1, low - 2, column + 2, high + 2, colour)
    end
  end
end

local function draw_legend(canvas, series, area)
  for i, s in ipairs(series) do
    local top = area.top + 10 + (i - 1) * 32
    canvas:box(area.right + 20, top + 8, area.right + 60, top + 14, s.colour)
    canvas:text(area.right + 70, top, s.name, 0)
  end
end

local function read_series(where, list, smooth)
  local series, longest = {}, 0
  for i, given in ipairs(check.arg(where, "series", list, "table")) do
    local s = check.options(where, given, { { "name", "string", "" }, { "x", "any" }, { "y", "any", required = true } })
    s.y = smoothed(numbers(where, s.y), smooth)
    s.x = s.x and numbers(where, s.x)
    if s.x and #s.x ~= #s.y then
      check.fail(where, "series %d has %d values of x for %d of y", i, #s.x, #s.y)
    end
    if not s.x then
      s.x = {}
      for k = 1, #s.y do s.x[k] = k end
    end
    s.colour = FIRST_CURVE + (i - 1) % (#PALETTE - FIRST_CURVE + 1)
    longest = math.max(longest, select(2, core.text_boxes(s.name)))
    series[i] = s
  end
  return series, longest
end

--- A chart of lines.
---
---     local picture = hd.plot.lines({ { name = "train", y = losses }, { name = "test", x = steps, y = other } },
---       { title = "loss", x_label = "step", log_y = true })
---     assert(hd.image.save("loss.png", picture))
---
---@param series table[]  { name =, y =, x = } each; x and y are lists or 1-D tensors, x counts from 1 by default;
---                       values that are not finite, or not positive on a logarithmic axis, leave a gap
---@param opts? table     title, x_label, y_label, width (800), height (480), log_x, log_y, smooth: 0 to 1, the share of
---                       the past in a running mean (0)
---@return hd.Tensor      [3, height, width] u8
function plot.lines(series, opts)
  local o = check.options("plot.lines", opts, {
    { "title", "string", "" }, { "x_label", "string", "" }, { "y_label", "string", "" }, { "width", "integer", 800 },
    { "height", "integer", 480 }, { "log_x", "boolean", false }, { "log_y", "boolean", false },
    { "smooth", "number", 0 },
  })
  local list, longest = read_series("plot.lines", series, o.smooth)
  local canvas = Canvas(o.width, o.height)
  local legend = longest > 0 and 90 + longest * TEXT or 40
  local area = { left = 140, top = 80, right = canvas.width - legend, bottom = canvas.height - 90 }
  if area.right - area.left < 50 or area.bottom - area.top < 50 then
    check.fail("plot.lines", "the picture is too small: got %dx%d", o.width, o.height)
  end
  local low_x, high_x = range(list, "x", o.log_x)
  local low_y, high_y = range(list, "y", o.log_y)
  local x = axis(low_x, high_x, area.left, area.right, o.log_x)
  local y = axis(low_y, high_y, area.bottom - 10, area.top + 10, o.log_y)
  draw_axes(canvas, x, y, area, o)
  for _, s in ipairs(list) do draw_curve(canvas, s, x, y, area, s.colour) end
  if longest > 0 then draw_legend(canvas, list, area) end
  return canvas:picture()
end

-- Grids -----------------------------------------------------------------------------------------------------------

-- Any picture or batch of pictures as one u8 picture with 3 channels.
local function as_picture(where, x, columns)
  check.arg(where, "image", x, "tensor")
  local _ <close> = core.no_grad()
  if x:dim() == 4 then x = require "hd.image".grid(x, { columns = columns }) end
  if x:dim() ~= 3 or (x:size(1) ~= 1 and x:size(1) ~= 3) then
    check.fail(where, "image is wrong: got %s, expected [c,h,w] or [n,c,h,w] with 1 or 3 channels", check.show(x))
  end
  if x:dtype() ~= "u8" then x = ((x:to "f32" + 1) * 127.5):clamp(0, 255):round():to "u8" end
  return x:expand(3, -1, -1)
end

--- Pictures in columns, with a label above each: the levels of a hierarchy beside the joined result.
---@param columns table[]  { name =, image = } each; image [c, h, w], or [n, c, h, w] for a grid of its own; u8, or f32
---                        in [-1, 1]; 1 or 3 channels
---@param opts? { pad: integer, columns: integer }  white pixels around each (8); pictures per row of a grid
---@return hd.Tensor       [3, height, width] u8
function plot.grid(columns, opts)
  local o = check.options("plot.grid", opts, { { "pad", "integer", 8 }, { "columns", "integer" } })
  local label_height, width, height, parts = 20, o.pad, 0, {}
  for i, given in ipairs(check.arg("plot.grid", "columns", columns, "table")) do
    local c = check.options("plot.grid", given, { { "name", "string", "" }, { "image", "tensor", required = true } })
    local picture = as_picture("plot.grid", c.image, o.columns)
    local wide = math.max(picture:size(3), (select(2, core.text_boxes(c.name)) * TEXT + 1) // 2)
    parts[i] = { picture = picture, name = c.name, left = width, wide = wide }
    width, height = width + wide + o.pad, math.max(height, picture:size(2))
  end
  local canvas = Canvas(width, height + label_height + 2 * o.pad)
  for _, part in ipairs(parts) do canvas:text(2 * part.left, 2 * o.pad, part.name, 0) end
  local out = canvas:picture()
  local top = o.pad + label_height
  for _, part in ipairs(parts) do
    local p = part.picture
    out[{ {}, { top + 1, top + p:size(2) }, { part.left + 1, part.left + p:size(3) } }] = p
  end
  return out
end

return plot
