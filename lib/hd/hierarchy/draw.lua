-- hd/hierarchy/draw.lua: random numbers of which sample i has its own stream, told by (seed, stream, i) alone: the same
-- bits in any batch. Calls: core. Called by: hierarchy/sample, hierarchy/tokens, data/synth.
-- Streams of level l: l, its starting noise; 1000 l + k, noise put on level k for l to see; 1000 l + l, its sampler.

local core = require "hd.core"

local draw = {}

--- One generator for each of n samples.
---@param o { seed: integer, first: integer }  first: the number of the first sample
---@param stream integer
---@param n integer
---@return hd.Generator[]
function draw.generators(o, stream, n)
  local list, base = {}, core.rng(o.seed, stream)
  for i = 1, n do list[i] = base:fork(o.first + i - 1) end
  return list
end

-- Row i of [n, ...] from generator i.
local function rows(make, generators, shape)
  local list, one = {}, { 1, table.unpack(shape) }
  for i, rng in ipairs(generators) do list[i] = make(one, { rng = rng }) end
  return #list == 1 and list[1] or core.op.cat(list, 1)
end

--- Uniform numbers in [0, 1): [n, shape], n the number of generators.
---@param generators hd.Generator[]
---@param shape integer[]
---@return hd.Tensor
function draw.uniform(generators, shape) return rows(core.rand, generators, shape) end

--- Standard normal numbers: [n, shape].
---@param generators hd.Generator[]
---@param shape integer[]
---@return hd.Tensor
function draw.normal(generators, shape) return rows(core.randn, generators, shape) end

return draw
