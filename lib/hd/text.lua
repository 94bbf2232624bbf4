-- hd/text.lua: texts and their tokens. A vocabulary numbers the symbols of a text, characters or words, from 1.
-- Calls: core, hd.check, hd.class. Called by: hd.lua, hd.data.text, hd.hierarchy.text.

local core = require "hd.core"
local check = require "hd.check"
local class = require "hd.class"

local text = {}

local LARGEST = 256 << 20 -- bytes of a file
local UNITS = { "char", "word" }
local UNKNOWN = "\u{FFFD}" -- stands for symbols that a vocabulary does not have

--- Read a text file: UTF-8, of at most 256 MiB. A byte order mark is dropped, line ends become "\n".
---@param path string
---@return string? text  nil and a message where it cannot be read, is empty or is no UTF-8
---@return string? message
function text.load(path)
  local file, message = io.open(check.arg("text.load", "path", path, "string"), "rb")
  if not file then return nil, "text.load: " .. message end
  local _ <close> = file
  local all, trouble = file:read(LARGEST + 1) -- nil at the end of an empty file
  if not all then return nil, ("text.load: '%s' %s"):format(path, trouble or "is empty") end
  if #all > LARGEST then return nil, ("text.load: '%s' has more than %d bytes"):format(path, LARGEST) end
  local valid, at = utf8.len(all)
  if not valid then
    return nil, ("text.load: '%s' is no UTF-8: got byte 0x%02X at %d"):format(path, all:byte(at), at)
  end
  all = all:gsub("^\u{FEFF}", ""):gsub("\r\n?", "\n")
  if all == "" then return nil, ("text.load: '%s' is empty"):format(path) end
  return all
end

-- Symbols of a text, in order, handed to fn. Characters are code points. Words are runs of letters, digits and
-- apostrophes, each with the space before it; all else is a symbol by itself: joined they are the text again.
local EACH = {
  char = function(s, fn)
    for symbol in s:gmatch(utf8.charpattern) do fn(symbol) end
  end,
  word = function(s, fn)
    local at = 1
    while at <= #s do
      local first, last = s:find("^ ?[%w'\128-\255]+", at)
      if not first then first, last = s:find("^ ?[^%w]", at) end
      fn(s:sub(first, last))
      at = last + 1
    end
  end,
}

--- The symbols of a text, numbered from 1.
---@class hd.text.Vocabulary
---@field unit string       "char" or "word"
---@field symbols string[]  by number; the last one, U+FFFD, stands for all that are not there
---@field counts integer[]  how often each was seen
local Vocabulary = class "hd.text.Vocabulary"

-- Symbols by falling count, equal ones by their bytes.
local function ranked(counts)
  local list = {}
  for symbol in next, counts do list[#list + 1] = symbol end -- order free: sorted below
  table.sort(list, function(a, b)
    if counts[a] ~= counts[b] then return counts[a] > counts[b] end
    return a < b
  end)
  return list
end

-- From what state() gave.
local function restore(self, state)
  local o = check.options("text.Vocabulary", state, {
    { "unit", UNITS, required = true }, { "symbols", "table", required = true }, { "counts", "table", required = true },
  })
  check.list("text.Vocabulary", "symbols", o.symbols, "string")
  check.list("text.Vocabulary", "counts", o.counts, "integer")
  if #o.symbols ~= #o.counts or #o.symbols < 2 then
    check.fail("text.Vocabulary", "got %d symbols and %d counts, expected as many, 2 at least", #o.symbols, #o.counts)
  end
  self.unit, self.symbols, self.counts = o.unit, o.symbols, o.counts
end

-- From a text.
local function count(self, s, o)
  local counts, seen = {}, 0
  EACH[o.unit](s, function(symbol) counts[symbol] = (counts[symbol] or 0) + 1 end)
  counts[UNKNOWN] = nil
  self.unit, self.symbols, self.counts = o.unit, {}, {}
  for rank, symbol in ipairs(ranked(counts)) do
    if rank <= o.size - 1 then
      self.symbols[rank], self.counts[rank] = symbol, counts[symbol]
    else
      seen = seen + counts[symbol]
    end
  end
  table.insert(self.symbols, UNKNOWN)
  table.insert(self.counts, seen)
end

--- Number the symbols of a text by how often they occur, or take the state of an earlier vocabulary.
---
---     local v = hd.text.Vocabulary("to be or not to be", { unit = "word" })
---     v:decode(v:encode "to be")                     -- "to be"
---
---@param source string|table  a text, or what state() gave
---@param opts? table  unit: "char" (code points, the default) or "word" (with the space before it, so that words joined
---  are the text); size: the most symbols, the rarest become one (65,536)
function Vocabulary:init(source, opts)
  if type(source) == "table" then
    restore(self, source)
  else
    local o = check.options("text.Vocabulary", opts, { { "unit", UNITS, "char" }, { "size", "integer", 65536 } })
    if check.arg("text.Vocabulary", "source", source, "string") == "" then
      check.fail("text.Vocabulary", "the text is empty: expected one symbol at least")
    end
    if not utf8.len(source) then check.fail("text.Vocabulary", "the text is no UTF-8: use hd.text.load") end
    if o.size < 2 then check.fail("text.Vocabulary", "size is wrong: got %d, expected at least 2", o.size) end
    count(self, source, o)
  end
  self.numbers = {}
  for i, symbol in ipairs(self.symbols) do self.numbers[symbol] = i end
end

--- How many symbols there are, the unknown one among them.
function Vocabulary:__len() return #self.symbols end

function Vocabulary:__tostring() return ("vocabulary of %d symbols (%s)"):format(#self, self.unit) end

--- A text as numbers.
---@param s string  UTF-8
---@return hd.Tensor  i64 [symbols]
function Vocabulary:encode(s)
  if check.arg("vocabulary:encode", "s", s, "string") == "" then
    check.fail("vocabulary:encode", "the text is empty: expected one symbol at least")
  end
  if not utf8.len(s) then check.fail("vocabulary:encode", "the text is no UTF-8: use hd.text.load") end
  local list, numbers, unknown = {}, self.numbers, #self.symbols
  EACH[self.unit](s, function(symbol) list[#list + 1] = numbers[symbol] or unknown end)
  return core.tensor(list, { dtype = "i64" })
end

--- Numbers as a text; those that are no symbols, as masks are, become "_".
---@param ids hd.Tensor|integer[]  [t], or [n, t]
---@return string|string[]  a list for [n, t]
function Vocabulary:decode(ids)
  check.arg("vocabulary:decode", "ids", ids, "tensor|table")
  if check.is_tensor(ids) and ids:dim() == 2 then
    local list = {}
    for i = 1, ids:size(1) do list[i] = self:decode(ids[i]) end
    return list
  end
  local words = {}
  for i, id in ipairs(check.is_tensor(ids) and ids:totable() or ids) do words[i] = self.symbols[id] or "_" end
  return table.concat(words)
end

--- What makes the same vocabulary again: hd.text.Vocabulary(state). Numbers and strings alone.
---@return table
function Vocabulary:state() return { unit = self.unit, symbols = self.symbols, counts = self.counts } end

class.guard(Vocabulary, { "encode", "decode", "state" })
text.Vocabulary = Vocabulary

return text
