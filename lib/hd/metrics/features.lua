-- hd/metrics/features.lua: features of pictures: a small classifier, trained here, without its last layer.
-- It learns the classes of a labelled set. Without labels each of up to 1,024 pictures is a class of its own, known
-- again in changed colours, mirrored, moved and turned by quarters (Dosovitskiy et al. 2014). Distances in features of
-- different files must not be compared: each file has a name, "hdfd-SET-vN", that belongs to every figure.
-- Calls: core, hd.nn, hd.optim, hd.file, hd.data.

local check = require "hd.check"
local class = require "hd.class"
local core = require "hd.core"
local file = require "hd.file"
local nn = require "hd.nn"
local optim = require "hd.optim"

local VERSION = 1 -- of the network and its training: features of another one are others
local INSTANCES = 1024
local LARGEST = 4096 -- of the numbers in a file that say how large its network is
local KIND = "hdlua picture features"

-- The network -----------------------------------------------------------------------------------------------------

local Net = class("FeatureNet", nn.Module)

-- Five convolutions, two of them with stride 2. Features are the means over positions of what the third and the fifth
-- give, 2 w + 4 w numbers; a linear layer makes one score for each class of the last 4 w.
function Net:init(o)
  local w = o.width
  local channels, strides, blocks = { o.channels, w, 2 * w, 2 * w, 4 * w, 4 * w }, { 1, 2, 1, 2, 1 }, {}
  for i, stride in ipairs(strides) do
    blocks[i] = nn.Sequential(
      nn.Conv2d(channels[i], channels[i + 1], 3, { stride = stride, padding = 1 }),
      nn.GroupNorm(8, channels[i + 1], { activation = "silu" }))
  end
  self.blocks = blocks
  self.score = nn.Linear(4 * w, o.classes)
end

-- The means of the third and the last block: [n, 2 w] and [n, 4 w].
function Net:means(x)
  local middle
  for i, block in ipairs(self.blocks) do
    x = block(x)
    if i == 3 then middle = x:mean { 3, 4 } end
  end
  return middle, x:mean { 3, 4 }
end

function Net:features(x) return core.op.cat({ self:means(x) }, 2) end

function Net:forward(x)
  local _, last = self:means(x)
  return self.score(last)
end

-- Features of pictures in batches: [n, dim].
local function extract(net, x, batch)
  local _ <close> = core.no_grad()
  local parts = {}
  for first = 1, x:size(1), batch do
    local scope <close> = core.scope()
    local part = x:narrow(1, first, math.min(batch, x:size(1) - first + 1))
    if part:dtype() == "u8" then part = part:to "f32" * (1 / 127.5) - 1 end
    parts[#parts + 1] = scope:keep(net:features(part))
  end
  return core.op.cat(parts, 1)
end

-- Features --------------------------------------------------------------------------------------------------------

--- Features of pictures, of mean 0 and variance 1 on the set that they were learnt from: `f(x)` gives [n, dim].
---@class hd.metrics.Features
---@field name string      "hdfd-cifar10-v1": the set and the version; part of every figure made with them
---@field accuracy number  share of right answers on pictures (without labels: on changed pictures) not trained with
---@field classes integer
---@field dim integer
---@field channels integer
---@field size integer     pixels of a side of the pictures that it was trained with
local Features = class "hd.metrics.Features"

local NUMBERS = { "classes", "width", "channels", "size", "steps", "seed", "accuracy" }

function Features:init(net, mean, std, about)
  self.net, self.mean, self.std = net:eval(), core.keep(mean), core.keep(std)
  for _, key in ipairs(NUMBERS) do self[key] = about[key] end
  self.name, self.task, self.dim = about.name, about.task, 6 * about.width
end

-- Pictures of a tensor or a set, or an error.
local function check_pictures(self, x)
  if type(x) == "table" and check.is_tensor(x.x) then x = x.x end
  check.arg("features", "x", x, "tensor")
  if x:dim() ~= 4 or x:size(2) ~= self.channels or x:size(3) < 4 or x:size(4) < 4 then
    check.fail("features", "x is wrong: got %s, expected [n,%d,h,w] of at least 4x4 pixels", check.show(x),
      self.channels)
  end
  return x
end

--- Features of pictures.
---@param x hd.Tensor|hd.data.Set  [n, channels, height, width], u8, or f32 in [-1, 1]
---@param opts? { batch: integer }  how many at once (256)
---@return hd.Tensor  [n, dim] f32
function Features:__call(x, opts)
  local o = check.options("features", opts, { { "batch", "integer", 256 } })
  local _ <close> = core.no_grad()
  return (extract(self.net, check_pictures(self, x), math.max(1, o.batch)) - self.mean) / self.std
end

--- The class that the classifier behind the features sees in each picture.
---@param x hd.Tensor  [n, channels, height, width], u8, or f32 in [-1, 1]
---@return hd.Tensor  [n] i64, from 1
function Features:classify(x)
  local _ <close> = core.no_grad()
  local last = extract(self.net, check_pictures(self, x), 256):narrow(2, 2 * self.width + 1, 4 * self.width)
  return self.net.score(last):argmax(2)
end

--- Write them, whole or not at all.
---@param path string  .safetensors
---@return boolean? done  true, or nil and a message
---@return string? message
function Features:save(path)
  local tensors, texts = { ["features.mean"] = self.mean, ["features.std"] = self.std }, { kind = KIND }
  for name, x in next, self.net:state_dict() do tensors[name] = x end -- order free: separate keys
  for _, key in ipairs(NUMBERS) do texts[key] = tostring(self[key]) end
  texts.name, texts.task, texts.version = self.name, self.task, tostring(VERSION)
  return file.save(path, tensors, { metadata = texts })
end

function Features:__tostring()
  return ("%s: %d features, %.1f %% of %d %s right"):format(self.name, self.dim, 100 * self.accuracy, self.classes,
    self.task == "classes" and "classes" or "single pictures")
end

-- Training --------------------------------------------------------------------------------------------------------

-- A batch moved, turned or mirrored as a whole, each picture in colours of its own. Classes of labelled
-- sets may change when turned or mirrored (digits): they are only moved.
local function changed(x, labelled, rng)
  local function between(low, high) return low + (rng:number() * (high - low + 1)) // 1 | 0 end
  local reach = math.max(1, x:size(3) // 8)
  local dy, dx = between(-reach, reach), between(-reach, reach)
  local ground = x:select(4, 1):select(3, 1):mean():item() -- what the corners show comes in at the sides
  x = core.op.pad(x, { dx, -dx, dy, -dy }, ground)
  if labelled then return x end
  local turns = between(0, 3)
  if turns % 2 == 1 and x:size(3) == x:size(4) then x = x:transpose(3, 4) end
  if turns > 1 then x = x:flip(4) end
  local n, c = x:size(1), x:size(2)
  local scale, shift = core.rand({ n, c, 1, 1 }, { rng = rng }), core.rand({ n, c, 1, 1 }, { rng = rng })
  return x * (scale * 0.4 + 0.8) + (shift - 0.5) * 0.2
end

-- What is learnt: the set to train with, the number of classes, and pictures with answers to be asked.
local function task_of(set, o)
  local order = core.permutation(#set, o.seed)
  if set.labels then
    local held = math.max(1, #set // 10)
    local asked = set:subset(table.move(order, 1, held, 1, {}))
    local classes = math.tointeger(set.labels:amax():item())
    return set:subset(table.move(order, held + 1, #order, 1, {})), classes, asked.x:to "f32" * (1 / 127.5) - 1,
      asked.labels
  end
  local n = math.min(#set, INSTANCES)
  local part = set:subset(table.move(order, 1, n, 1, {}))
  part.labels = core.arange(1, n)
  local rng, list = core.rng(o.seed, 7), {}
  for first = 1, n, 64 do
    local x = part.x:narrow(1, first, math.min(64, n - first + 1)):to "f32" * (1 / 127.5) - 1
    list[#list + 1] = changed(x, false, rng)
  end
  return part, n, core.op.cat(list, 1), part.labels
end

local function accuracy_of(net, x, labels)
  local _ <close> = core.no_grad()
  local right = 0
  for first = 1, x:size(1), 256 do
    local n = math.min(256, x:size(1) - first + 1)
    right = right + net(x:narrow(1, first, n)):argmax(2):eq(labels:narrow(1, first, n)):sum():item()
  end
  return right / x:size(1)
end

local function train(net, set, labelled, o)
  local opt = optim.AdamW(net:parameters(), { lr = o.lr, weight_decay = 0.05 })
  local rate = optim.lr.cosine(opt, { steps = o.steps, warmup = math.min(100, o.steps // 10), final = 0.01 })
  local batches = set:batches { size = math.min(o.batch, #set), seed = o.seed, flip = labelled and o.flip }
  local rng = core.rng(o.seed, 8)
  for step = 1, o.steps do
    local _ <close> = core.scope()
    local x, labels = batches()
    local loss = nn.functional.cross_entropy(net(changed(x, labelled, rng)), labels)
    opt:zero_grad()
    loss:backward()
    opt:step()
    rate:step()
    if o.on_step then o.on_step { step = step, loss = loss:item() } end
  end
  batches:close()
end

local TRAIN_OPTIONS = {
  { "name", "string" }, { "steps", "integer", 1500 }, { "batch", "integer", 64 }, { "lr", "number", 2e-3 },
  { "width", "integer", 16 }, { "seed", "integer", 0 }, { "flip", "boolean", false },
  { "on_step", "callable" },
}

local features = {}

-- "cifar10 train" -> "cifar10"; what a file's name could not hold goes.
local function short_name(set)
  local name = (set.name or "set"):gsub("%s.*$", ""):gsub("[^%w_]", "")
  return name
end

--- Train features on a set: on its classes, or, without labels, to know single pictures again. The same set, options
--- and processor give the same bits. Weights are drawn from the seed; the default generator stays as it was.
---@param set hd.data.Set
---@param opts? table  name: of the set (its own); steps (1500), batch (64), lr (2e-3), width (16; there are
---  6 width features), seed (0), flip: mirror half of the pictures of a labelled set (false), on_step: function
---  { step =, loss = }
---@return hd.metrics.Features
function features.train(set, opts)
  local o = check.options("metrics.train_features", opts, TRAIN_OPTIONS)
  if type(set) ~= "table" or not check.is_tensor(set.x) or #set < 16 or set.x:size(3) < 4 or set.x:size(4) < 4 then
    check.fail("metrics.train_features", "set is wrong: got %s, expected a data set of at least 16 pictures of 4x4",
      type(set) == "table" and tostring(set) or check.show(set))
  end
  for _, key in ipairs { "steps", "batch" } do
    if o[key] < 1 then check.fail("metrics.train_features", "%s is wrong: got %d, expected at least 1", key, o[key]) end
  end
  if o.width < 8 or o.width % 8 ~= 0 or o.width > LARGEST then
    check.fail("metrics.train_features", "width is wrong: got %d, expected a multiple of 8", o.width)
  end
  local labelled = set.labels ~= nil
  local part, classes, asked, truth = task_of(set, o)
  local before = core.rng_state()
  core.seed(o.seed)
  local net = Net { channels = set.x:size(2), width = o.width, classes = classes }
  core.set_rng_state(before)
  train(net, part, labelled, o)
  local x = extract(net, part.x, 256)
  return Features(net, x:mean(1), x:std(1):clamp(1e-6), {
    name = ("hdfd-%s-v%d"):format(o.name or short_name(set), VERSION), task = labelled and "classes" or "pictures",
    accuracy = accuracy_of(net, asked, truth), classes = classes, width = o.width, channels = set.x:size(2),
    size = set.x:size(3), steps = o.steps, seed = o.seed,
  })
end

-- The numbers in a file's metadata, or nil and what is missing.
local function read_about(texts)
  local about = { name = texts.name, task = texts.task }
  if texts.kind ~= KIND then return nil, "it holds no features of hdlua (`hdlua -m features` makes them)" end
  if texts.version ~= tostring(VERSION) then
    return nil, ("its version is %s, expected %d: train it again"):format(tostring(texts.version), VERSION)
  end
  for _, key in ipairs(NUMBERS) do
    local n = tonumber(texts[key])
    about[key] = key == "accuracy" and n or math.tointeger(n)
    if not about[key] then return nil, ("its metadata lack '%s'"):format(key) end
  end
  if not about.name or not about.task then return nil, "its metadata lack 'name' or 'task'" end
  for _, key in ipairs { "classes", "width", "channels" } do
    if about[key] < 1 or about[key] > LARGEST then return nil, ("'%s' is out of range"):format(key) end
  end
  if about.width % 8 ~= 0 then return nil, "'width' is no multiple of 8" end
  return about
end

--- Read features that train_features (or `hdlua -m features`) made.
---@param path string
---@return hd.metrics.Features? features  nil and a message where the file cannot be read
---@return string? message
function features.load(path)
  check.arg("metrics.features", "path", path, "string")
  local tensors, texts = file.load(path)
  if not tensors then return nil, texts end
  local about, message = nil, "it is no .safetensors file"
  if type(texts) == "table" then about, message = read_about(texts) end
  if not about then return nil, ("metrics.features: '%s' cannot be used: %s"):format(path, message) end
  local state, net = {}, Net(about)
  for name, x in next, tensors do -- order free: separate keys
    if not name:find "^features%." then state[name] = x end
  end
  local ok, fault = pcall(net.load_state_dict, net, state)
  local mean, std = tensors["features.mean"], tensors["features.std"]
  if not ok or not mean or not std then
    return nil, ("metrics.features: '%s' cannot be used: %s"):format(path, ok and "no statistics" or tostring(fault))
  end
  return Features(net, mean, std, about)
end

class.guard(Features, { "classify", "save" })

return features
