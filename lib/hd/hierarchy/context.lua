-- hd/hierarchy/context.lua: what a level's network sees of the other levels, and one call of a network.
-- A level that is seen comes with its noise: `noisy` { name = z + sigma eps } (tokens: some masked), `sigmas` and
-- `times` say how much, as numbers or per sample. The network gets it scaled to unit variance and is told its time.

local core = require "hd.core"
local prediction = require "hd.schedule.prediction"

local context = {}

-- z [n, c, ...] on the grid of `extents`: repeated where it is coarser, averaged where it is finer.
local function on_grid(z, extents)
  local size = table.move(z:shape(), 3, z:dim(), 1, {})
  local same, finer = true, true
  for d, e in ipairs(extents) do
    same = same and size[d] == e
    finer = finer and size[d] > e
  end
  if same then return z end
  if not finer then return core.op.interpolate(z, { size = extents, mode = "nearest" }) end
  local kernel = {}
  for d, e in ipairs(extents) do kernel[d] = size[d] // e end
  return (#extents == 1 and core.op.avg_pool1d or core.op.avg_pool2d)(z, kernel)
end

-- Unit variance for a standardised level with noise.
local function scaled(z, sigma)
  if type(sigma) == "number" then return sigma == 0 and z or z * (1 / math.sqrt(1 + sigma * sigma)) end
  return z * prediction.per_sample(1 / (sigma * sigma + 1):sqrt(), z)
end

-- Positions of [n, c, ...] as channels from -1 to 1, since attention does not know them.
local function positions(z)
  local shape, parts = z:shape(), {}
  for d = 3, #shape do
    local like = { 1, 1 }
    for e = 3, #shape do like[e] = e == d and shape[d] or 1 end
    local full = table.move(shape, 1, #shape, 1, {})
    full[2] = 1
    parts[#parts + 1] = core.linspace(-1, 1, shape[d], { dtype = z:dtype() }):view(like):expand(full)
  end
  return parts
end

-- More channels of zeros, up to `channels`.
local function padded(x, channels)
  local missing = channels - x:size(2)
  if missing == 0 then return x end
  local shape = x:shape()
  shape[2] = missing
  return core.op.cat({ x, core.zeros(shape, { dtype = x:dtype() }) }, 2)
end

-- How a level enters: on the grid of x as channels; as mean and deviation of each channel; as tokens to attend to.
local ENTER = {
  concat = function(z, like) return on_grid(z, table.move(like:shape(), 3, like:dim(), 1, {})) end,
  film = function(z)
    local flat = z:reshape(z:size(1), z:size(2), -1)
    local mean = flat:mean(3)
    return core.op.cat({ mean, ((flat - mean:unsqueeze(3)):square():mean(3) + 1e-6):sqrt() }, 2)
  end,
  attention = function(z, _, width)
    local parts = positions(z)
    parts[#parts + 1] = z
    return padded(core.op.cat(parts, 2), width):flatten(3, -1):transpose(2, 3)
  end,
}

--- The context of a level: { concat =, film =, attention = }, each nil where no level enters so.
---@param names string[]
---@param ways table<string, string>  how each enters
---@param noisy table<string, hd.Tensor>
---@param sigmas table<string, any>
---@param like hd.Tensor     what the network works on: [n, c, ...]
---@param width? integer     channels of tokens
---@return table<string, hd.Tensor>
function context.gather(names, ways, noisy, sigmas, like, width)
  local parts, seen = {}, {}
  for _, name in ipairs(names) do
    local way = ways[name]
    parts[way] = parts[way] or {}
    table.insert(parts[way], ENTER[way](scaled(noisy[name], sigmas[name]):to(like:dtype()), like, width))
  end
  for way, list in next, parts do -- order free: separate keys; dimension 2: channels, numbers or tokens
    seen[way] = #list == 1 and list[1] or core.op.cat(list, 2)
  end
  return seen
end

--- What a network is told of a level's time: a schedule's input, or the share of masks in thousandths.
---@param level hd.hierarchy.Level
---@param t number|number[]
---@return number|hd.Tensor
function context.time_input(level, t)
  if level.kind == "gaussian" then return level.schedule:time_input(t) end
  return type(t) == "number" and 1000 * t or core.tensor(t) * 1000
end

-- All times that a network is told: its level's, then those of its context; a shared network has a place for each level
-- and is told 0 for those that it does not see.
local function all_times(models, own, names, times)
  local told = { own }
  if not models.share then
    for i, name in ipairs(names) do told[i + 1] = times[name] end
  else
    for i, name in ipairs(models._plan.places) do told[i + 1] = times[name] or 0 end
  end
  return #told == 1 and own or told
end

-- Labels [n] of a shared network say level and class, of others the class. The last class of each level is none.
local function labels_of(models, level, n, labels)
  local classes = models.classes
  if not classes then return models.share and core.full({ n }, level.index, { dtype = "i64" }) or nil end
  labels = labels or core.full({ n }, classes + 1, { dtype = "i64" })
  return models.share and labels + (level.index - 1) * (classes + 1) or labels
end

--- Call a gaussian level's network: noisy z (already scaled) -> its prediction, both in the level's own coordinates.
---@param models hd.hierarchy.Models
---@param level hd.hierarchy.Level
---@param z hd.Tensor
---@param time any  the level's time as networks are told it
---@param seen { noisy: table, sigmas: table, times: table, labels: hd.Tensor? }
---@return hd.Tensor
function context.predict(models, level, z, time, seen)
  local frame, plan = level.frame, models._plan
  local names, x = plan.sees[level.name], frame and frame.to(z) or z
  local parts = context.gather(names, plan.ways[level.name], seen.noisy, seen.sigmas, x, plan.token_width)
  local cond = { context = parts.concat, vector = parts.film, tokens = parts.attention }
  local channels = x:size(2)
  cond.labels = labels_of(models, level, x:size(1), seen.labels)
  if models.share then
    local width = plan.context_in
    if width > 0 then cond.context = padded(cond.context or x:narrow(2, 1, 1) * 0, width) end
    x = padded(x, plan.channels_in)
  end
  local y = models:net(level.name)(x, all_times(models, time, names, seen.times), cond)
  if models.share then y = y:narrow(2, 1, channels) end
  return frame and frame.from(y) or y
end

-- Is it a token, neither blank nor mask?
local function is_token(level, z) return z:ne(level.blank):logical_and(z:le(level.vocab)) end

-- Levels with the same positions: the tokens that others show lie over a level's own. Also where coarser ones show one:
-- there this level is blank, whatever the network says.
local function overlaid(self, level, z, names, noisy)
  local settled
  for i = #names, 1, -1 do -- the coarsest comes last
    local shown = is_token(level, noisy[names[i]])
    z = core.op.where(shown, noisy[names[i]], z)
    if self[names[i]].index < level.index then settled = settled and settled:logical_or(shown) or shown end
  end
  return z, settled
end

-- Logits of a level that is certainly blank: [1, 1, vocab].
local function blank_logits(level, dtype)
  local list = {}
  for i = 1, level.vocab do list[i] = i == level.blank and 0.0 or -1e9 end
  return core.tensor(list, { dtype = dtype }):view { 1, 1, level.vocab }
end

-- The context's tokens stand in front of the level's own.
local function in_front(z, names, noisy)
  local parts, before = {}, 0
  for i, name in ipairs(names) do
    parts[i] = noisy[name]
    before = before + parts[i]:size(2)
  end
  parts[#parts + 1] = z
  return #parts == 1 and z or core.op.cat(parts, 2), before
end

--- Call a mask level's network: its logits [n, t, vocab] for the tokens z [n, t] (vocab + 1 is the mask). The context's
--- tokens stand in front of the level's own, or lie over them where levels share positions.
---@param models hd.hierarchy.Models
---@param level hd.hierarchy.Level
---@param z hd.Tensor
---@param time any  1000 times the share of masked tokens
---@param seen { noisy: table, times: table, labels: hd.Tensor? }
---@return hd.Tensor
function context.logits(models, level, z, time, seen)
  local names, length = models._plan.sees[level.name], z:size(2)
  local cond = { labels = labels_of(models, level, z:size(1), seen.labels) }
  local tokens, before, settled
  if level.blank then
    tokens, settled = overlaid(models._plan.by_name, level, z, names, seen.noisy)
  else
    tokens, before = in_front(z, names, seen.noisy)
  end
  local logits = models:net(level.name)(tokens, all_times(models, time, names, seen.times), cond)
  if before then logits = logits:narrow(2, before + 1, length) end
  if not settled then return logits end
  return core.op.where(settled:unsqueeze(3), blank_logits(level, logits:dtype()), logits)
end

return context
