-- hd/data/set.lua: a set of pictures or clips of sound in memory.
-- Calls: core, hd.class, hd.check, hd.data.loader. Called by: hd.data.*.

local core = require "hd.core"
local class = require "hd.class"
local check = require "hd.check"
local Batches = require "hd.data.loader"

--- A set of pictures, or of clips of sound.
--- `set.x` holds them as u8 [n, channels, height, width] or f32 [n, channels, frames], `set.labels` (i64 [n], counted
--- from 1) their classes, nil where there are none; `set.classes` the names of the classes where they are known;
--- `set.name` says what it is; `set.about`, where there is one, is a list of what is known of each.
---@class hd.data.Set
local Set = class "hd.data.Set"

--- Make a set of tensors of your own.
---@param x hd.Tensor  u8 [n, channels, height, width], or f32 [n, channels, frames]
---@param labels? hd.Tensor  i64 [n], counted from 1
---@param fields? table  name, classes and whatever else should be found in the set
function Set:init(x, labels, fields)
  check.arg("data.Set", "x", x, "tensor")
  check.arg("data.Set", "labels", labels, "tensor|nil")
  local pictures, clips = x:dtype() == "u8" and x:dim() == 4, x:dtype() == "f32" and x:dim() == 3
  if not (pictures or clips) then
    check.fail("data.Set", "x is wrong: got %s, expected u8 [n,channels,height,width] or f32 [n,channels,frames]",
      check.show(x))
  end
  check.arg("data.Set", "fields", fields, "table|nil")
  for key, value in next, fields or {} do self[key] = value end -- order free: separate keys
  self.x, self.labels = x:contiguous(), labels
end

function Set:__len() return self.x:size(1) end

-- What the set holds.
local function noun(self) return self.x:dim() == 4 and "pictures" or "clips" end

function Set:__tostring()
  return ("%s: %d %s %s [%s]"):format(self.name or "set", #self, noun(self), self.x:dtype(),
    table.concat(self.x:shape(), ",", 2))
end

--- One picture or clip.
---@param i integer  1 to #set; negative counts from the end
---@return hd.Tensor x  u8 [channels, height, width] or f32 [channels, frames]
---@return integer? label
function Set:get(i)
  local n = #self
  local at = check.arg("set:get", "i", i, "integer")
  if at < 0 then at = n + 1 + at end
  if at < 1 or at > n then check.fail("set:get", "i is wrong: got %d, expected 1 to %d", i, n) end
  return self.x[at], self.labels and math.tointeger(self.labels:get(at)) or nil
end

--- Batches without end, epoch after epoch, made ahead by a thread of their own.
--- The order depends on (seed, epoch) alone, mirroring on (seed, epoch, picture) alone; the last short batch of an
--- epoch is dropped. Sounds come as they are, without a thread, and are not mirrored.
---
---     for x, labels in set:batches { size = 32, flip = true } do ... end
---
---@param opts? table  size: pictures in a batch (32); seed (0); flip: mirror half of the pictures (false); shuffle
---  (true); prefetch: batches made ahead (2; 0: no thread); augment: options of hd.data.augment, which then changes
---  each batch, by (seed, batch) alone (without its rng); transform: function (x, labels) -> x, labels that is run on
---  each batch when it is handed over
---@return hd.data.Batches
function Set:batches(opts) return Batches(self, opts) end

--- Some of the pictures, copied into a set of their own.
---@param indices integer[]|hd.Tensor  1 to #set, in the order wanted
---@return hd.data.Set
function Set:subset(indices)
  check.arg("set:subset", "indices", indices, "table|tensor")
  local list = check.is_tensor(indices) and indices:reshape(-1):totable() or indices
  for _, i in ipairs(list) do
    if math.type(i) ~= "integer" or i < 1 or i > #self then
      check.fail("set:subset", "an index is wrong: got %s, expected 1 to %d", tostring(i), #self)
    end
  end
  if #list == 0 then check.fail("set:subset", "there are no indices: expected at least one") end
  local fields = {}
  for key, value in next, self do -- order free: separate keys
    if key ~= "x" and key ~= "labels" then fields[key] = value end
  end
  if self.about then
    fields.about = {}
    for j, i in ipairs(list) do fields.about[j] = self.about[i] end
  end
  return Set(core.rows(self.x, list), self.labels and core.rows(self.labels, list), fields)
end

--- Divide the set in two by chance.
---@param fraction number  share of the first part, between 0 and 1
---@param seed? integer  default 0; the same seed gives the same parts
---@return hd.data.Set first
---@return hd.data.Set second
function Set:split(fraction, seed)
  check.arg("set:split", "fraction", fraction, "number")
  local n = #self
  local first = math.floor(fraction * n + 0.5)
  if not (first >= 1 and first < n) then -- NaN too
    check.fail("set:split", "fraction is wrong: got %g of %d %s, expected some for both parts", fraction, n,
      noun(self))
  end
  local order = core.permutation(n, check.arg("set:split", "seed", seed or 0, "integer"))
  return self:subset(table.move(order, 1, first, 1, {})), self:subset(table.move(order, first + 1, n, 1, {}))
end

-- How many classes there are, or an error where there are no labels.
local function count_classes(self, where)
  if not self.labels then check.fail(where, "the set has no labels: got %s", tostring(self)) end
  return math.max(self.classes and #self.classes or 0, math.tointeger(self.labels:amax():item()))
end

--- Pictures of each class by chance, and the rest: a small labelled set to learn from, and one to be asked.
---@param n integer  pictures of each class; a class with fewer is an error
---@param seed? integer  default 0; the same seed gives the same parts
---@return hd.data.Set first  n pictures of every class
---@return hd.data.Set? rest  nil where none are left
function Set:per_class(n, seed)
  if check.arg("set:per_class", "n", n, "integer") < 1 then
    check.fail("set:per_class", "n is wrong: got %d, expected at least 1", n)
  end
  local taken, first, rest = {}, {}, {}
  for number = 1, count_classes(self, "set:per_class") do taken[number] = 0 end
  local labels = self.labels:totable()
  for _, i in ipairs(core.permutation(#self, check.arg("set:per_class", "seed", seed or 0, "integer"))) do
    local mine = taken[labels[i]] < n
    taken[labels[i]] = taken[labels[i]] + (mine and 1 or 0)
    table.insert(mine and first or rest, i)
  end
  for number, count in ipairs(taken) do
    if count < n then
      check.fail("set:per_class", "class %d%s has too few %s: got %d, expected at least %d", number,
        self.classes and self.classes[number] and (" ('%s')"):format(self.classes[number]) or "", noun(self), count, n)
    end
  end
  return self:subset(first), #rest > 0 and self:subset(rest) or nil
end

class.guard(Set, { "get", "batches", "subset", "split", "per_class" })

return Set
