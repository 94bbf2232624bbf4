-- hd/hierarchy/text.lua: the shipped hierarchy of texts: sentences, phrases, words. All levels have the positions of
-- the text [length]; each has tokens at its own and "blank" at those of the others.
--   sentence  what ends sentences; of words also the rarest of each sentence, which says most about it
--   phrase    what parts phrases; of words also the rarest of each phrase
--   word      everything else
-- Rules for words: a bar parts phrases where the text has some (" | "), else punctuation does, and a frequent word
-- begins one after words that are not. Of characters: spaces and punctuation part phrases.
-- Called by: hierarchy/init.

local check = require "hd.check"
local class = require "hd.class"
local core = require "hd.core"
local text = require "hd.text"

local NAMES = { "sentence", "phrase", "word" }
local FREQUENT = 1 / 250 -- of all words: such a word begins a phrase rather than says what it is about

-- Kinds of symbols ---------------------------------------------------------------------------------------------------

-- Without the space before it; spaces themselves stay.
local function bare(symbol) return #symbol > 1 and symbol:gsub("^ ", "") or symbol end

local function ends_sentence(symbol) return bare(symbol):find "^[.!?\n]$" ~= nil end

local function is_word(symbol) return bare(symbol):find "^[%w'\128-\255]" ~= nil end

-- How often each word was seen, at the beginning of sentences and lines too; and all words.
local function count_words(vocabulary)
  local counts, all = {}, 0
  for i, symbol in ipairs(vocabulary.symbols) do
    local word = bare(symbol):lower()
    counts[word] = (counts[word] or 0) + vocabulary.counts[i]
    if is_word(symbol) then all = all + vocabulary.counts[i] end
  end
  return counts, all
end

-- Of each symbol: whether it ends sentences, parts phrases or is a word, how often that was seen, whether often.
local function kinds_of(vocabulary)
  local kinds, counts, all = {}, count_words(vocabulary)
  local has_bar = counts["|"] ~= nil
  for i, symbol in ipairs(vocabulary.symbols) do
    local word, seen = is_word(symbol), counts[bare(symbol):lower()]
    kinds[i] = { word = word, ends = ends_sentence(symbol), seen = seen,
      frequent = word and not has_bar and seen > FREQUENT * all }
    kinds[i].parts = not word and not kinds[i].ends and (not has_bar or bare(symbol) == "|")
  end
  return kinds
end

-- Rules: the level of each position of a row of symbols -------------------------------------------------------------

local function rule_of_characters(vocabulary)
  local kinds = kinds_of(vocabulary)
  return function(row)
    local levels = {}
    for i, symbol in ipairs(row) do
      local kind = kinds[symbol]
      levels[i] = kind.ends and 1 or kind.word and 3 or 2
    end
    return levels
  end
end

-- The rarest word of positions first to last that is still of level `word`, the first of equals, goes to `level`.
local function lift_rarest(row, levels, kinds, first, last, level)
  local best
  for i = first, last do
    local kind = kinds[row[i]]
    if kind.word and levels[i] == 3 and (not best or kind.seen < kinds[row[best]].seen) then best = i end
  end
  if best then levels[best] = level end
end

-- Runs of positions, each ended by `ends(i)` and the end of the row, handed to fn (first, last).
local function each_run(row, ends, fn)
  local first = 1
  for i = 1, #row do
    if i == #row or ends(i) then
      fn(first, i)
      first = i + 1
    end
  end
end

local function rule_of_words(vocabulary)
  local kinds = kinds_of(vocabulary)
  return function(row)
    local levels = {}
    for i, symbol in ipairs(row) do levels[i] = kinds[symbol].ends and 1 or kinds[symbol].parts and 2 or 3 end
    local function ends_phrase(i)
      local here, following = kinds[row[i]], kinds[row[i + 1]]
      return here.ends or here.parts or (here.word and not here.frequent and following.frequent)
    end
    each_run(row, function(i) return levels[i] == 1 end,
      function(first, last) lift_rarest(row, levels, kinds, first, last, 1) end)
    each_run(row, ends_phrase, function(first, last)
      for i = first, last do
        if levels[i] == 1 and kinds[row[i]].word then return end -- the phrase of the sentence's own word
      end
      lift_rarest(row, levels, kinds, first, last, 2)
    end)
    return levels
  end
end

local RULES = { char = rule_of_characters, word = rule_of_words }

-- Split and join ------------------------------------------------------------------------------------------------------

-- Levels at positions by a rule; with fewer than three levels the coarse ones that are missing are part of the next.
local function split_by(rule, names, blank)
  return function(x)
    local list = {}
    for i, row in ipairs(x:totable()) do list[i] = rule(row) end
    local at = core.tensor(list, { dtype = "i64" }):clamp(#NAMES - #names + 1, #NAMES)
    local z, absent = {}, core.full({}, blank, { dtype = "i64" })
    for i, name in ipairs(names) do z[name] = core.op.where(at:eq(#NAMES - #names + i), x, absent) end
    return z
  end
end

-- The coarsest token that there is; else a mask where a level has one; else the unknown symbol.
local function join_with(names, blank)
  local mask = core.keep(core.full({}, blank + 1, { dtype = "i64" }))
  local unknown = core.keep(core.full({}, blank - 1, { dtype = "i64" }))
  return function(z)
    local x = z[names[#names]] * 0 + unknown
    for _, name in ipairs(names) do x = core.op.where(z[name]:eq(mask), mask, x) end
    for i = #names, 1, -1 do x = core.op.where(z[names[i]]:lt(blank), z[names[i]], x) end
    return x
  end
end

-- Declaration ---------------------------------------------------------------------------------------------------------

local function read_vocabulary(vocabulary)
  if class.is(vocabulary, text.Vocabulary) then return vocabulary end
  return text.Vocabulary(vocabulary)
end

-- hd.hierarchy.text (init.lua). Also gives the options as plain tables, which files can hold.
return function(Hierarchy, opts)
  local o = check.options("hierarchy.text", opts, {
    { "vocabulary", "table", required = true }, { "length", "integer", 128 }, { "levels", "integer", 3 },
    { "regime", Hierarchy.regimes, "cascade" }, { "rate", { "linear", "cosine" }, "linear" },
    { "steps", "integer", 64 }, { "t_aug", "number", 0 }, { "lag", "number" },
  })
  if o.levels < 1 or o.levels > #NAMES then
    check.fail("hierarchy.text", "levels is wrong: got %d, expected 1 (words alone) to %d (%s)", o.levels, #NAMES,
      table.concat(NAMES, ", "))
  end
  if o.length < 1 then check.fail("hierarchy.text", "length is wrong: got %d, expected at least 1", o.length) end
  local vocabulary = read_vocabulary(o.vocabulary)
  local blank, names, levels = #vocabulary + 1, table.move(NAMES, #NAMES - o.levels + 1, #NAMES, 1, {}), {}
  for i, name in ipairs(names) do
    levels[i] = { name = name, kind = "mask", vocab = blank, blank = blank, rate = o.rate, steps = o.steps }
  end
  local H = Hierarchy {
    name = "text", split = split_by(RULES[vocabulary.unit](vocabulary), names, blank), join = join_with(names, blank),
    shape = { o.length }, regime = o.regime, levels = levels, t_aug = o.t_aug, lag = o.lag,
  }
  H.vocabulary, o.vocabulary = vocabulary, vocabulary:state()
  return H, o
end
