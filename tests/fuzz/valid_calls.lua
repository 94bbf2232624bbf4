-- tests/fuzz/valid_calls.lua: right calls for random_calls.lua to spoil: calls[name]() gives the arguments, `self`
-- first for methods. Ops take theirs from tests/ops/samples.lua.

local hd = require "hd"
local core = require "hd.core"
local samples = dofile((arg[0]:gsub("fuzz/random_calls", "ops/samples")))

local valid = { calls = {} }
local calls = valid.calls

-- Ops -------------------------------------------------------------------------------------------------------------

local function described(d)
  local x = d.kind == "index" and core.randint(1, d.limit, d.shape) or core.rand(d.shape)
  return d.kind == "bool" and x:ge(0.5) or x
end

local function built(v)
  if samples.is_description(v) then return described(v) end
  if type(v) ~= "table" then return v end
  if v == samples.NIL then return nil end
  local out = {}
  for key, inner in pairs(v) do out[key] = built(inner) end
  return out
end

local SMALL = 2000 -- elements

local function is_small(case)
  for _, v in ipairs(case) do
    local n = 1
    for _, extent in ipairs(samples.is_description(v) and v.shape or {}) do n = n * extent end
    if n > SMALL then return false end
  end
  return true
end

--- The maker of right calls of an op, by chance one of its samples; nil for what is no op.
function valid.op(name)
  local small = {}
  for _, case in ipairs(samples.ops[name] or {}) do
    if is_small(case) then small[#small + 1] = case end
  end
  if #small == 0 then return nil end
  return function()
    local case = small[math.random(#small)]
    local args = { n = #case }
    for i = 1, #case do args[i] = built(case[i]) end
    return args
  end
end

-- The library -----------------------------------------------------------------------------------------------------

local nn, optim, schedule = hd.nn, hd.optim, hd.schedule

local function small_net() return nn.Sequential(nn.Linear(3, 2), nn.SiLU()) end
local function layer() return nn.Linear(2, 2) end
local function bytes(...) return core.full({ ... }, 7, { dtype = "u8" }) end
local function set() return hd.data.Set(bytes(4, 3, 2, 2), core.randint(1, 2, { 4 })) end
local function plan() return schedule.linear { T = 10 } end
local function rate() return optim.SGD(small_net():parameters(), { lr = 0.1 }) end
local function denoise(x) return x * 0.5 end
local function level_net() return { net = function() return denoise end, regime = "cascade" } end
local function none() return {} end

local function vocabulary() return hd.text.Vocabulary("to be or not to be", { unit = "word" }) end
local function poems() return hd.data.text(nil, { length = 16 }) end

local function hierarchy()
  return hd.hierarchy.new {
    name = "two", shape = { 2, 4 }, regime = "cascade",
    split = function(x) return { low = x:narrow(2, 1, 1), high = x:narrow(2, 2, 1) } end,
    join = function(z) return core.op.cat({ z.low, z.high }, 2) end,
    levels = { { name = "low", steps = 2 }, { name = "high", steps = 1, context = { "low" } } },
  }
end

-- Methods of a class: its name, a maker of the object, and the other arguments of each.
local function methods(class, make, list)
  for name, rest in pairs(list) do
    calls[class .. ":" .. name] = function()
      local args = rest()
      return table.move(args, 1, #args, 2, { make(), n = #args + 1 })
    end
  end
end

methods("hd.data.Set", set, {
  batches = function() return { { size = 2, seed = 1, flip = true, prefetch = 0, transform = math.abs } } end,
  get = function() return { 2 } end, split = function() return { 0.5, 1 } end,
  subset = function() return { { 1, 2 } } end,
})
methods("hd.text.Vocabulary", vocabulary, {
  encode = function() return { "to be" } end, decode = function() return { { 1, 2 } } end, state = none,
})
methods("hd.data.TextSet", poems, {
  batches = function() return { { size = 2, seed = 1 } } end, get = function() return { 2 } end,
  split = function() return { 0.5 } end,
})
methods("hd.data.TextBatches", function() return poems():batches { size = 2 } end, {
  state_dict = none, load_state_dict = function() return { poems():batches({ size = 2 }):state_dict() } end,
})
methods("hd.nn.Module", small_net, {
  apply = function() return { math.type } end, buffers = none, clone = none, eval = none, named_buffers = none,
  load_state_dict = function() return { small_net():state_dict(), { strict = false } } end,
  named_modules = none, named_parameters = none, num_parameters = none, parameters = none,
  register_buffer = function() return { "x", hd.zeros(2), { persistent = false } } end,
  requires_grad_ = function() return { true } end, state_dict = none, zero_grad = none,
  summary = function() return { { 1, 3 } } end, to = function() return { "f64" } end,
  train = function() return { true } end,
})
for _, name in ipairs { "Sequential", "ModuleList" } do
  methods("hd.nn." .. name, nn[name], { append = function() return { layer() } end })
end
for _, name in ipairs { "Adam", "AdamW", "SGD" } do
  local function make() return optim[name](small_net():parameters(), { lr = 0.1 }) end
  calls["hd.optim." .. name] = function() return { small_net():parameters(), { lr = 0.1, weight_decay = 0.1 } } end
  methods("hd.optim." .. name, make, { step = none })
end
methods("hd.optim.EMA", function() return optim.EMA(small_net()) end, {
  update = none, state_dict = none,
  load_state_dict = function() return { optim.EMA(small_net()):state_dict() } end,
})
methods("hd.hierarchy.Hierarchy", hierarchy, {
  check = function() return { hd.randn(2, 2, 4) } end,
  fit_stats = function() return { hd.randn(4, 2, 4), { n = 4 } } end,
  join = function() return { { low = hd.randn(1, 1, 4), high = hd.randn(1, 1, 4) } } end,
  level = function() return { "low" } end, level_names = none, stats_dict = none,
  load_stats_dict = function() return { { ["low.mean"] = hd.zeros(1), ["low.std"] = hd.ones(1) } } end,
  loss = function() return { level_net(), hd.randn(2, 2, 4), { regime = "flat", t_aug = 0.1 } } end,
  models = function() return { { net = "unet", width = 8, share = false, regime = "cascade" } } end,
  pictures = function() return { hd.randn(1, 2, 4) } end,
  sample = function()
    return { {}, 1, { seed = 1, steps = 1, denoise = { low = denoise, high = denoise }, all = true, batch = 1 } }
  end,
  set_stats = function() return { { low = { mean = 0, std = 1 }, high = { mean = { 0 }, std = { 2 } } } } end,
  split = function() return { hd.randn(1, 2, 4) } end,
  standardise = function() return { "low", hd.randn(1, 1, 4) } end,
  unstandardise = function() return { "low", hd.randn(1, 1, 4) } end,
})

for _, name in ipairs { "ancestral", "ddim", "dpmpp_2m", "euler", "heun" } do
  calls["hd.sampler." .. name] = function() return { denoise, hd.randn(1, 2), { 2, 1, 0 }, { rng = hd.rng(1) } } end
end
for name, own in pairs { constant = {}, cosine = { steps = 9 }, linear = { steps = 9 },
  inverse_sqrt = { reference = 5 } } do
  calls["hd.optim.lr." .. name] = function() return { rate(), own } end
end
for _, name in ipairs { "linear", "cosine", "scaled_linear", "sigmoid" } do
  calls["hd.schedule." .. name] = function() return { { T = 10 } } end
end
for _, name in ipairs { "mse_loss", "l1_loss", "huber_loss" } do
  calls["hd.nn.functional." .. name] = function() return { hd.ones(2), hd.zeros(2), { reduction = "none" } } end
end

local others = {
  ["args"] = function() return { { steps = 5, lr = 0.1, flip = false }, { steps = "how many" } } end,
  ["args.parse"] = function() return { { steps = 5, flip = false, kind = { "a", "b" } }, { "--steps", "3" } } end,
  ["data.Set"] = function() return { bytes(4, 3, 2, 2), core.randint(1, 2, { 4 }), { name = "x" } } end,
  ["data.cifar10"] = function() return { "x", {} } end,
  ["data.folder"] = function() return { "x", { size = 8 } } end,
  ["data.idx"] = function() return { "x.gz", "y.gz" } end,
  ["data.text"] = function() return { nil, { length = 16, unit = "word", size = 99 }, n = 2 } end,
  ["data.open"] = function() return { "synth", { size = 8, rate = 8000, length = 64, kind = "sounds" } } end,
  ["data.synth"] = function() return { { rate = 8000, length = 64, n = 9, seed = 1 } } end,
  ["data.shapes"] = function() return { { n = 4, size = 8, seed = 1 } } end,
  ["gradcheck"] = function() return { denoise, { hd.ones(2, { dtype = "f64" }) }, { eps = 1e-6 } } end,
  ["guidance.between"] = function() return { denoise, denoise, { scale = 2 } } end,
  ["guidance.classifier_free"] = function() return { denoise, { scale = 2 } } end,
  ["hierarchy.Hierarchy"] = function()
    return { { name = "one", split = print, join = print, levels = { { name = "x", kind = "gaussian", steps = 2 } } } }
  end,
  ["hierarchy.colour.join"] = function() return { hd.ones(1, 1, 2, 2), hd.ones(1, 2, 2, 2) } end,
  ["hierarchy.colour.split"] = function() return { hd.ones(1, 3, 2, 2) } end,
  ["hierarchy.haar.down"] = function() return { hd.ones(1, 3, 4, 4) } end,
  ["hierarchy.haar.fold"] = function() return { hd.ones(1, 1, 4, 4), 2 } end,
  ["hierarchy.haar.join"] = function() return { hd.ones(1, 1, 2, 2), { hd.ones(1, 3, 2, 2) } } end,
  ["hierarchy.haar.split"] = function() return { hd.ones(1, 1, 4, 4), 2 } end,
  ["hierarchy.haar.unfold"] = function() return { hd.ones(1, 4, 2, 2), 2 } end,
  ["hierarchy.haar.up"] = function() return { hd.ones(1, 1, 2, 2), hd.ones(1, 3, 2, 2) } end,
  ["hierarchy.images"] = function() return { { size = 16, steps = 1 } } end,
  ["hierarchy.partition"] = function() return { { a = { 1, 3 }, b = { 2 } } } end,
  ["hierarchy.text"] = function() return { { vocabulary = vocabulary(), length = 8, levels = 2, rate = "cosine" } } end,
  ["hierarchy.unmask"] = function() return { { order = "confidence", cached = true, temperature = 0.5 } } end,
  ["audio.load"] = function() return { "a.wav" } end,
  ["audio.resample"] = function() return { core.rand { 1, 40 }, 8000, 6000 } end,
  ["audio.band_difference"] = function()
    return { core.rand { 2, 1, 64 }, core.rand { 1, 1, 64 }, { rate = 8000, edges = { 2000, 4000 }, size = 16 } }
  end,
  ["audio.picture"] = function() return { core.rand { 2, 1, 40 }, { size = 16, hop = 8, range = 40 } } end,
  ["audio.spectrogram"] = function() return { core.rand { 2, 40 }, { size = 16, hop = 8, bands = 4, rate = 8000 } } end,
  ["audio.save"] = function() return { "a.wav", core.rand { 1, 40 }, 8000, { bits = 16 } } end,
  ["data.wav"] = function() return { ".", { length = 64, speakers = { "a" } } } end,
  ["hierarchy.audio"] = function() return { { length = 64, bins = 8, bands = 2 } } end,
  ["hierarchy.mdct.forward"] = function() return { core.rand { 1, 1, 16 }, 4, "kbd" } end,
  ["hierarchy.mdct.inverse"] = function() return { core.rand { 1, 4, 4 }, 4, "sine" } end,
  ["hierarchy.packet.forward"] = function() return { core.rand { 1, 1, 16 }, 2, "db2" } end,
  ["hierarchy.packet.inverse"] = function() return { core.rand { 1, 4, 4 }, 2, "db2" } end,
  ["image.grid"] = function() return { bytes(3, 3, 2, 2), { columns = 2, pad = 1 } } end,
  ["image.load"] = function() return { "a.png", { channels = 3, dtype = "u8" } } end,
  ["image.resize"] = function() return { bytes(3, 4, 4), { 2, 2 } } end,
  ["image.save"] = function() return { "a.png", bytes(3, 4, 4) } end,
  ["load"] = function() return { "a.safetensors" } end,
  ["nn.Attention"] = function() return { 8, { heads = 2 } } end,
  ["nn.AttentionBlock"] = function() return { 8, { heads = 2 } } end,
  ["nn.Conv1d"] = function() return { 2, 4, 3, { padding = 1, stride = 2, groups = 2, bias = false } } end,
  ["nn.Conv2d"] = function() return { 2, 4, { 3, 3 }, { padding = 1, stride = { 1, 2 }, dilation = 1 } } end,
  ["nn.ConvTranspose1d"] = function() return { 2, 4, 3, { stride = 2, output_padding = 1 } } end,
  ["nn.ConvTranspose2d"] = function() return { 2, 4, 3, { stride = 2, output_padding = 1 } } end,
  ["nn.Dropout"] = function() return { 0.5 } end,
  ["nn.Embedding"] = function() return { 3, 2 } end,
  ["nn.GaussianFourierProjection"] = function() return { 8, { scale = 2 } } end,
  ["nn.GroupNorm"] = function() return { 2, 4, { eps = 1e-5 } } end,
  ["nn.LayerNorm"] = function() return { { 2, 3 }, { eps = 1e-5 } } end,
  ["nn.Linear"] = function() return { 2, 3, { bias = false } } end,
  ["nn.ModuleList"] = function() return { { layer(), layer() } } end,
  ["nn.Parameter"] = function() return { hd.ones(2) } end,
  ["nn.RMSNorm"] = function() return { 4, { eps = 1e-5 } } end,
  ["nn.ResBlock"] = function() return { 4, 4, { norm_num_groups = 2 } } end,
  ["nn.Sequential"] = function() return { layer(), layer() } end,
  ["nn.TimestepEmbedding"] = function() return { 8, 16 } end,
  ["nn.Timesteps"] = function() return { 8, { freq_shift = 1 } } end,
  ["nn.Transformer"] = function() return { { vocab_size = 5, dim = 8, depth = 1, heads = 2 } } end,
  ["nn.TransformerBlock"] = function() return { 8, { heads = 2, mlp_ratio = 2 } } end,
  ["nn.UNet"] = function() return { { in_channels = 1, out_channels = 1 } } end,
  ["nn.functional.batch_norm"] = function()
    return { hd.randn(2, 3, 4), hd.zeros(3), hd.ones(3), hd.ones(3), hd.zeros(3), { training = true } }
  end,
  ["nn.functional.cross_entropy"] = function()
    return { hd.randn(2, 3), core.randint(1, 3, { 2 }), { reduction = "sum", label_smoothing = 0.1 } }
  end,
  ["nn.functional.dropout"] = function() return { hd.ones(3), { p = 0.5, training = true, rng = hd.rng(1) } } end,
  ["nn.functional.instance_norm"] = function() return { hd.randn(2, 3, 4), hd.ones(3), hd.zeros(3), { eps = 1 } } end,
  ["nn.functional.pixel_shuffle"] = function() return { hd.ones(1, 4, 2, 2), 2 } end,
  ["nn.functional.pixel_unshuffle"] = function() return { hd.ones(1, 1, 4, 4), 2 } end,
  ["optim.EMA"] = function() return { small_net(), { decay = 0.9, warmup = false } } end,
  ["optim.clip_grad_norm_"] = function() return { small_net():parameters(), 1 } end,
  ["optim.clip_grad_value_"] = function() return { small_net():parameters(), 1 } end,
  ["optim.lr.lambda"] = function() return { rate(), function() return 1 end } end,
  ["plot.grid"] = function() return { { { name = "a", image = bytes(3, 4, 4) } }, { pad = 2 } } end,
  ["plot.lines"] = function()
    return { { { name = "a", y = { 1, 2, 3 }, x = { 1, 2, 4 } } }, { width = 200, height = 150, smooth = 0.5 } }
  end,
  ["run.new"] = function() return { { out = "run", settings = { a = 1 }, state = {}, levels = { "a" } } } end,
  ["sampler.discrete.ddim"] = function() return { denoise, hd.randn(1, 2), plan(), { steps = 2 } } end,
  ["sampler.discrete.timesteps"] = function() return { plan(), { steps = 2, spacing = "leading" } } end,
  ["save"] = function() return { "a.safetensors", { x = hd.zeros(2) }, { metadata = { a = "b" } } } end,
  ["schedule.edm"] = function() return { { sigma_data = 0.5 } } end,
  ["schedule.flow"] = function() return { { shift = 2 } } end,
  ["schedule.karras"] = function() return { { sigma_min = 0.01, sigma_max = 10, rho = 7 } } end,
  ["schedule.prediction.convert"] = function() return { "eps", "v", hd.ones(2), hd.ones(2), 0.6, 0.8 } end,
  ["schedule.prediction.denoiser"] = function() return { denoise, { schedule = plan(), predict = "v", clip = 1 } } end,
  ["schedule.prediction.input_scale"] = function() return { "edm", "ve", 0.6, 0.8, 0.5 } end,
  ["schedule.prediction.per_sample"] = function() return { hd.ones(2), hd.ones(2, 3) } end,
  ["schedule.prediction.row"] = function() return { "v", 0.6, 0.8, 0.5 } end,
  ["schedule.prediction.solve"] = function() return { "edm", hd.ones(2), hd.ones(2), 0.6, 0.8, 0.5 } end,
  ["schedule.prediction.target"] = function() return { "v", hd.ones(2), hd.ones(2), 0.6, 0.8 } end,
  ["schedule.zero_terminal_snr"] = function() return { plan() } end,
  ["stack"] = function() return { { hd.ones(2), hd.ones(2) }, 1 } end,
}
for name, maker in pairs(others) do calls["hd." .. name] = maker end

return valid
