-- hd/data/shapes.lua: a procedural set. Calls: core (io/shapes.c draws), hd.check, hd.data.set.

local core = require "hd.core"
local check = require "hd.check"
local Set = require "hd.data.set"

local CLASSES = { "disc", "square", "triangle", "star", "ring" }

--- Coloured shapes on white (discs, squares, triangles, stars, rings; plain, striped, dotted or shaded), drawn by rule:
--- picture i depends on (seed, i) alone.
---@param opts? {size?: integer, n?: integer, seed?: integer}  size 32, n 2000, seed 0
---@return hd.data.Set
local function shapes(opts)
  local o = check.options("data.shapes", opts, {
    { "size", "integer", 32 },
    { "n", "integer", 2000 },
    { "seed", "integer", 0 },
  })
  local x, labels = core.shapes_draw(o.n, o.size, o.seed)
  return Set(x, labels, { name = "shapes", classes = CLASSES })
end

return shapes
