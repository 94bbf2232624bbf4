-- hd/metrics/bits.lua: bits per character of texts. Called by: hd.metrics.

local check = require "hd.check"
local class = require "hd.class"
local core = require "hd.core"
local interval = require "hd.metrics.interval"
local TextSet = require "hd.data.text".TextSet

local bits = {}

-- `count` windows of a set, evenly from all: i64 [count, length].
local function windows_of(set, count)
  local n, list = #set, {}
  count = math.min(count or n, n)
  for i = 1, count do list[i] = (i - 1) * n // count + 1 end
  return core.rows(set.x, list)
end

-- How many characters the windows have: f64 [n].
local function characters_of(vocabulary, x)
  local list = {}
  for i, s in ipairs(vocabulary:decode(x)) do list[i] = utf8.len(s) end
  return core.tensor(list, { dtype = "f64" })
end

--- hd.metrics.bits_per_character.
function bits.per_character(H, models, set, o)
  local where = "metrics.bits_per_character"
  if not class.is(set, TextSet) then
    check.fail(where, "set is wrong: got %s, expected a text (hd.data.text)", check.show(set))
  end
  check.arg(where, "H", H, "table")
  if o.windows and o.windows < 1 then check.fail(where, "windows is wrong: got %d, expected at least 1", o.windows) end
  local x, rng, nats, parts = windows_of(set, o.windows), core.rng(o.seed), {}, {}
  for first = 1, x:size(1), o.batch do
    local scope <close> = core.scope()
    local batch = x:narrow(1, first, math.min(o.batch, x:size(1) - first + 1))
    local found, levels = H:bound(models, batch, { times = o.times, rng = rng })
    nats[#nats + 1] = scope:keep(found)
    for name, value in next, levels do parts[name] = (parts[name] or 0) + value * batch:size(1) end -- order free: sums
  end
  local all, characters = core.op.cat(nats, 1), characters_of(set.vocabulary, x)
  local function statistic(sums, lengths) return sums:sum():item() / lengths:sum():item() / math.log(2) end
  local value = statistic(all, characters)
  for name, sum in next, parts do parts[name] = sum / characters:sum():item() / math.log(2) end -- order free: each
  local around = o.resamples > 0 and all:size(1) > 1 and interval.of(statistic, { all, characters }, value,
    o.resamples, o.seed, true) or nil
  return value, around, parts
end

return bits
