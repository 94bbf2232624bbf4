-- hd/hierarchy/split/partition.lua: positions of a sequence divided into sets: the discrete twin of frequency bands.

local check = require "hd.check"
local core = require "hd.core"

--- split and join that hand each level its own positions of [n, t] (tokens or numbers).
---
---     local split, join = hd.hierarchy.partition { sentence = { 1, 9 }, phrase = { 3, 5, 11 }, word = { 2, 4, ... } }
---
---@param sets table<string, integer[]>  level name -> positions; each of 1 to t in exactly one set
---@return fun(x: hd.Tensor): table<string, hd.Tensor>
---@return fun(z: table<string, hd.Tensor>): hd.Tensor
return function(sets)
  local names, owner, length = {}, {}, 0
  for name, set in next, check.arg("hierarchy.partition", "sets", sets, "table") do -- order free: sorted below
    names[#names + 1] = check.arg("hierarchy.partition", "name of a level", name, "string")
    check.list("hierarchy.partition", name, set, "integer")
  end
  table.sort(names)
  for _, name in ipairs(names) do
    for _, position in ipairs(sets[name]) do
      if owner[position] then
        check.fail("hierarchy.partition", "position %d is in '%s' and in '%s', expected one of them", position,
          owner[position], name)
      end
      owner[position] = name
      length = length + 1
    end
  end
  for position = 1, length do
    if not owner[position] then
      check.fail("hierarchy.partition", "%d positions do not cover 1 to %d: position %d is missing, expected in a set",
        length, length, position)
    end
  end
  -- where each position of the sequence stands in the concatenation of all sets
  local place, count = {}, 0
  for _, name in ipairs(names) do
    for _, position in ipairs(sets[name]) do
      count = count + 1
      place[position] = count
    end
  end
  local function index(list) return core.keep(core.tensor(list, { dtype = "i64" })) end
  local index_of, place_index = {}, index(place)
  for _, name in ipairs(names) do index_of[name] = index(sets[name]) end

  local function split(x)
    if check.arg("partition", "x", x, "tensor"):dim() ~= 2 or x:size(2) ~= length then
      check.fail("partition", "got [%s], expected [n,%d]", table.concat(x:shape(), ","), length)
    end
    local z = {}
    for _, name in ipairs(names) do z[name] = x:index_select(2, index_of[name]) end
    return z
  end
  local function join(z)
    local parts = {}
    for i, name in ipairs(names) do parts[i] = z[name] end
    return core.op.cat(parts, 2):index_select(2, place_index)
  end
  return split, join
end
