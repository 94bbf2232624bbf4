-- hd/data/text.lua: a text as a set of windows of tokens. Calls: core, hd.check, hd.class, hd.text. Called by: users.

local core = require "hd.core"
local check = require "hd.check"
local class = require "hd.class"
local text = require "hd.text"

-- Batches -----------------------------------------------------------------------------------------------------------

--- Batches of windows, without end. In each epoch the windows begin at another place of the text and come in another
--- order, which depend on (seed, epoch) alone.
---@class hd.data.TextBatches
local TextBatches = class "hd.data.TextBatches"

function TextBatches:init(set, opts)
  local o = check.options("batches", opts, { { "size", "integer", 32 }, { "seed", "integer", 0 } })
  local windows = math.max(1, (set.stream:size(1) - set.length + 1) // set.length) -- room to begin elsewhere
  if o.size < 1 or o.size > windows then
    check.fail("batches", "size is wrong: got %d, expected 1 to %d, the windows of the text", o.size, windows)
  end
  self.set, self.size, self.seed, self.position, self.windows = set, o.size, o.seed, 0, windows
end

--- Full batches in one epoch.
function TextBatches:__len() return self.windows // self.size end

-- The windows of an epoch [windows, length], a view of the text, and their order.
local function epoch_of(self, epoch)
  if self.epoch ~= epoch then
    local length, stream, rng = self.set.length, self.set.stream, core.rng(self.seed, epoch)
    local room = stream:size(1) - self.windows * length
    local first = core.randint(0, math.min(room, length - 1), { 1 }, { rng = rng }):item()
    self.view = core.keep(stream:narrow(1, first + 1, self.windows * length):view(self.windows, length))
    self.order = core.permutation(self.windows, core.randint(0, 1 << 30, { 1 }, { rng = rng }):item())
    self.epoch = epoch
  end
  return self.view, self.order
end

--- The next batch.
---@return hd.Tensor x  i64 [size, length]
function TextBatches:__call()
  local per_epoch = #self
  local view, order = epoch_of(self, self.position // per_epoch)
  local first = self.position % per_epoch * self.size + 1
  self.position = self.position + 1
  return core.rows(view, table.move(order, first, first + self.size - 1, 1, {}))
end

--- The place in the stream, for a checkpoint.
---@return table
function TextBatches:state_dict()
  return { position = self.position, seed = self.seed, size = self.size, length = self.set.length,
    tokens = self.set.stream:size(1) }
end

--- Go to the place that state_dict() gave.
---@param state table
function TextBatches:load_state_dict(state)
  check.arg("batches:load_state_dict", "state", state, "table")
  local own = self:state_dict()
  for _, key in ipairs { "seed", "size", "length", "tokens" } do
    if state[key] ~= own[key] then
      check.fail("batches:load_state_dict", "'%s' differs: got %s, expected %s", key, tostring(state[key]),
        tostring(own[key]))
    end
  end
  self.position = check.arg("batches:load_state_dict", "position", state.position, "integer")
  return self
end

class.guard(TextBatches, { "state_dict", "load_state_dict" })

-- The set -----------------------------------------------------------------------------------------------------------

--- A text as windows of tokens. `set.x` holds them, i64 [n, length], one behind the other; `set.stream` the whole text
--- as i64 [tokens], `set.vocabulary` what they mean, `set.characters` how many characters it has.
---@class hd.data.TextSet
local TextSet = class "hd.data.TextSet"

function TextSet:init(s, vocabulary, length, name)
  self.text, self.vocabulary, self.length, self.name = s, vocabulary, length, name
  self.stream, self.characters = core.keep(vocabulary:encode(s)), utf8.len(s)
  local n = self.stream:size(1) // length
  if n < 1 then
    check.fail("data.text", "the text is too short: got %d tokens, expected at least %d, the length of a window",
      self.stream:size(1), length)
  end
  self.x = self.stream:narrow(1, 1, n * length):view(n, length)
end

function TextSet:__len() return self.x:size(1) end

function TextSet:__tostring()
  return ("%s: %d windows of %d tokens, %s"):format(self.name, #self, self.length, tostring(self.vocabulary))
end

--- One window.
---@param i integer  1 to #set; negative counts from the end
---@return hd.Tensor x  i64 [length]
function TextSet:get(i)
  local n = #self
  local at = check.arg("set:get", "i", i, "integer")
  if at < 0 then at = n + 1 + at end
  if at < 1 or at > n then check.fail("set:get", "i is wrong: got %d, expected 1 to %d", i, n) end
  return self.x[at]
end

--- Batches without end.
---
---     for x in set:batches { size = 32, seed = 1 } do ... end
---
---@param opts? table  size: windows in a batch (32); seed (0)
---@return hd.data.TextBatches
function TextSet:batches(opts) return TextBatches(self, opts) end

--- Cut the text in two, at a character: what follows is held out. Both parts have the set's vocabulary.
---@param fraction number  share of the first part, between 0 and 1
---@return hd.data.TextSet first
---@return hd.data.TextSet second
function TextSet:split(fraction)
  check.arg("set:split", "fraction", fraction, "number")
  local at = fraction > 0 and fraction < 1 and math.floor(fraction * self.characters + 0.5) or 0
  if at < 1 or at >= self.characters then
    check.fail("set:split", "fraction is wrong: got %g, expected some of the text for both parts", fraction)
  end
  local byte = utf8.offset(self.text, at + 1)
  return TextSet(self.text:sub(1, byte - 1), self.vocabulary, self.length, self.name),
    TextSet(self.text:sub(byte), self.vocabulary, self.length, self.name)
end

class.guard(TextSet, { "get", "batches", "split" })

--- A text file, or the poems that come with hdlua, as windows of tokens.
---@param path? string  UTF-8; without it some poems and speeches in the public domain
---@param opts? table  length: tokens of a window (128); unit: "char" (default) or "word"; size: the most symbols of the
---  vocabulary (65,536); vocabulary: one that is there, instead of that of the text
---@return hd.data.TextSet? set  nil and a message where the file cannot be read
---@return string? message
local function open(path, opts)
  check.arg("data.text", "path", path, "string|nil")
  local o = check.options("data.text", opts, {
    { "length", "integer", 128 }, { "unit", { "char", "word" }, "char" }, { "size", "integer", 65536 },
    { "vocabulary", "table" },
  })
  if o.length < 1 then check.fail("data.text", "length is wrong: got %d, expected at least 1", o.length) end
  if o.vocabulary and not class.is(o.vocabulary, text.Vocabulary) then
    check.fail("data.text", "option 'vocabulary' is wrong: got %s, expected a hd.text.Vocabulary",
      check.show(o.vocabulary))
  end
  local s, message
  if path then
    s, message = text.load(path)
    if not s then return nil, message end
  else
    s = require "hd.data.poems"
  end
  local vocabulary = o.vocabulary or text.Vocabulary(s, { unit = o.unit, size = o.size })
  return TextSet(s, vocabulary, o.length, path and path:match "[^/]+$" or "poems")
end

return { open = open, TextSet = TextSet }
