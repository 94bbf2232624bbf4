-- hd/data/emoji.lua: the emoji of the system's font, as a set. Calls: core, hd.check, hd.data.set.

local core = require "hd.core"
local check = require "hd.check"
local Set = require "hd.data.set"

local FONT = "NotoColorEmoji.ttf"
local HINT = "\n  hint: install the package fonts-noto-color-emoji, or use hd.data.shapes"

--- The pictures of Noto Color Emoji on white, one for each code point that has one (1,446 in font 2.042), read straight
--- from the installed font. `set.codes` (i64 [n]) holds the code points.
--- Rule: composed on white in real numbers, padded to a square, averaged over exact cells, rounded half up.
---@param opts? {size?: integer, font?: string}  size 32; font: the path of a font file with CBDT/CBLC tables
---@return hd.data.Set? set  nil and a message where the font is missing
---@return string? message
local function emoji(opts)
  local o = check.options("data.emoji", opts, { { "size", "integer", 32 }, { "font", "string" } })
  local path = o.font
  if not path then
    local message
    path, message = core.font_find(FONT)
    if not path then return nil, "data.emoji: " .. message .. HINT end
  end
  local x, codes = core.font_load(path, o.size)
  if not x then return nil, "data.emoji: " .. codes end
  return Set(x, nil, { name = "emoji", codes = codes, path = path })
end

return emoji
