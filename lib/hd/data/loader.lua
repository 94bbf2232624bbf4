-- hd/data/loader.lua: batches of a set. Calls: core (the thread is io/loader.c's), hd.check. Called by: hd.data.set.

local core = require "hd.core"
local class = require "hd.class"
local check = require "hd.check"
local augment = require "hd.data.augment"

-- The loader of clips, which need no thread: nothing is decoded. It has the methods of the one in C.
local Clips = class "hd.data.Clips"

function Clips:init(set, o)
  if o.flip or o.augment then check.fail("batches", "flip and augment are for pictures: got clips of sound") end
  if o.size < 1 or o.size > #set then
    check.fail("batches", "size is wrong: got %d, expected 1 to %d (the clips of the set)", o.size, #set)
  end
  self.set, self.o, self.at = set, o, 0
end

-- The order of the clips in an epoch, by (seed, epoch) alone.
function Clips:order(epoch)
  if epoch ~= self.epoch then
    self.epoch = epoch
    self.list = self.o.shuffle and core.permutation(#self.set, self.o.seed + 1000003 * epoch)
      or core.arange(1, #self.set):totable()
  end
  return self.list
end

function Clips:next()
  local set, size = self.set, self.o.size
  local whole = #set // size
  local first = self.at % whole * size
  local indices = table.move(self:order(self.at // whole), first + 1, first + size, 1, {})
  self.at = self.at + 1
  return core.rows(set.x, indices), set.labels and core.rows(set.labels, indices)
end

function Clips:position() return self.at end
function Clips:seek(position) self.at = position end
function Clips:close() end

--- Batches of a set, without end: call it, or use it in a generic `for`.
---@class hd.data.Batches
local Batches = class "hd.data.Batches"

---@param set hd.data.Set
---@param opts? table  see hd.data.Set:batches
function Batches:init(set, opts)
  local o = check.options("batches", opts, {
    { "size", "integer", 32 },
    { "seed", "integer", 0 },
    { "flip", "boolean", false },
    { "shuffle", "boolean", true },
    { "prefetch", "integer", 2 },
    { "augment", "table" },
    { "transform", "callable" },
  })
  self.set, self.size, self.seed, self.transform = set, o.size, o.seed, o.transform
  self.flip, self.shuffle = o.flip, o.shuffle
  self.augment = o.augment and augment.check("batches: augment", o.augment)
  if set.x:dim() == 3 then
    self.loader = Clips(set, o)
  else
    self.loader = core.loader_new(set.x, set.labels, o.size, o.seed, o.flip, o.shuffle, o.prefetch)
  end
end

--- Full batches in one epoch.
function Batches:__len() return #self.set // self.size end

-- A batch as it leaves here, with its labels where there are any.
local function handed_over(self, x, ...)
  if self.augment then
    self.augment.rng = core.rng(self.seed, self.loader:position())
    x = augment.warp(x, self.augment)
  end
  if self.transform then return self.transform(x, ...) end
  return x, ...
end

--- The next batch.
---@return hd.Tensor x  f32 [size, channels, height, width] in [-1,1], or [size, channels, frames]
---@return hd.Tensor? labels  i64 [size]
function Batches:__call() return handed_over(self, self.loader:next()) end

--- The place in the stream, for a checkpoint: batches handed over, and what their order depends on.
---@return {position: integer, seed: integer, size: integer, pictures: integer, flip: boolean, shuffle: boolean}
function Batches:state_dict()
  return {
    position = self.loader:position(), seed = self.seed, size = self.size, pictures = #self.set, flip = self.flip,
    shuffle = self.shuffle,
  }
end

--- Go to the place that state_dict() gave; the batches that follow are those that followed there.
---@param state {position: integer, seed: integer, size: integer}  and, where they are known, pictures, flip, shuffle
function Batches:load_state_dict(state)
  check.arg("batches:load_state_dict", "state", state, "table")
  local own = self:state_dict()
  for _, key in ipairs { "seed", "size", "pictures", "flip", "shuffle" } do
    local needed = key == "seed" or key == "size"
    if state[key] ~= own[key] and (needed or state[key] ~= nil) then
      check.fail("batches:load_state_dict", "'%s' differs: got %s, expected %s", key, tostring(state[key]),
        tostring(own[key]))
    end
  end
  self.loader:seek(check.arg("batches:load_state_dict", "position", state.position, "integer"))
  return self
end

--- Stop the thread and free its buffers; the collector does it too.
function Batches:close() self.loader:close() end

Batches.__close = Batches.close
class.guard(Batches, { "state_dict", "load_state_dict", "close" })

return Batches
