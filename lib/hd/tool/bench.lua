-- hd/tool/bench.lua: `hdlua -m bench`, the reference workloads, timed through the public API.
--
--     hdlua -m bench --workload NAME,NAME --threads 2 --json out.json     (--help tells the names)
--     hdlua -m bench --workload all --describe
--
-- Each workload runs in a process of its own, so that its peak of memory is its own. Three untimed steps, then steps
-- one by one until there are at least 10 and 2 s have gone by, or 10 s with at least 3; reported are median and least.
-- A train step is: clear the gradients, draw noise and times, forward, loss, backward, optimizer, moving average.
-- GFLOP are counted by formula: 2 for each multiply-add of convolutions, linear layers and attention products; a step
-- has forward, the gradient of every weight, and of every input that depends on a parameter. Nothing that an algorithm
-- saves is deducted.

local hd = require "hd"
local core = require "hd.core"
local check = require "hd.check"
local nn, F = hd.nn, hd.nn.functional

-- Networks --------------------------------------------------------------------------------------------------------

local TIME = { dim = 64, embed = 256 }

local function image_net(channels, layers, groups)
  return nn.UNet {
    block_out_channels = channels, layers_per_block = layers, norm_num_groups = groups, num_attention_heads = 4,
    down_block_types = { "DownBlock2D", "AttnDownBlock2D", "DownBlock2D" }, fuse_qkv = true,
    time_dim = TIME.dim, time_embed_dim = TIME.embed,
  }
end

local function signal_net()
  return nn.UNet {
    dims = 1, in_channels = 1, out_channels = 1, block_out_channels = { 32, 64, 128, 128 }, layers_per_block = 1,
    norm_num_groups = 8, kernel_size = 5, down = 4, add_attention = false, time_dim = TIME.dim,
    time_embed_dim = TIME.embed,
  }
end

local function text_net()
  return nn.Transformer {
    vocab_size = 256, max_length = 128, dim = 256, depth = 4, heads = 4, time_dim = TIME.dim,
    time_embed_dim = TIME.embed,
  }
end

local function plain_net()
  local function conv(from, to) return nn.Conv2d(from, to, 3, { padding = 1 }) end
  return nn.Sequential(conv(3, 64), F.relu, conv(64, 128), F.relu, conv(128, 256), F.relu, conv(256, 3))
end

-- Steps -----------------------------------------------------------------------------------------------------------

-- A function that makes one train step with batch() -> loss; the loss is not read back.
local function train_step(net, batch, opts)
  local optimizer = hd.optim[opts.optimizer or "AdamW"](net:parameters(), { lr = opts.lr })
  local ema = opts.ema and hd.optim.EMA(net, { decay = opts.ema, warmup = false })
  return function()
    optimizer:zero_grad()
    local loss = batch()
    loss:backward()
    optimizer:step()
    if ema then ema:update() end
    return loss
  end
end

-- Predict the noise at random times of the linear schedule; x0 is a fixed batch in [-1, 1].
local function noise_step(net, shape, opts)
  local x0 = hd.rand(shape) * 2 - 1
  local abar = hd.schedule.linear { T = 1000 }:alphas_cumprod()
  local alphas, sigmas = abar:sqrt():to "f32", (1 - abar):sqrt():to "f32"
  local n, ones = shape[1], { shape[1] }
  for i = 2, #shape do ones[i] = 1 end
  return train_step(net, function()
    local t = hd.randint(1, 1000, { n })
    local eps = hd.randn(shape)
    local x = alphas:index_select(1, t):view(ones) * x0 + sigmas:index_select(1, t):view(ones) * eps
    return F.mse_loss(net(x, t - 1), eps)
  end, opts)
end

local function denoise_step(net, shape, opts)
  local x = hd.rand(shape)
  return train_step(net, function() return F.mse_loss(net(x + hd.randn(shape) * 0.1), x) end, opts)
end

-- Recover tokens of which a share t / 1000 is masked by the last token of the vocabulary.
local function mask_step(net, shape, opts)
  local ids = hd.randint(1, 255, shape)
  return train_step(net, function()
    local t = hd.randint(1, 1000, { shape[1] })
    local hidden = hd.rand(shape):lt((t:to "f32" / 1000):view(shape[1], 1))
    local logits = net(ids:masked_fill(hidden, 256), t)
    return F.cross_entropy(logits:view(-1, 256), ids:view(-1))
  end, opts)
end

-- One batch of samples; the untimed steps are single passes of the network.
local function sample_step(net, shape)
  local schedule = hd.schedule.linear { T = 1000 }
  net:eval()
  return function(is_warmup)
    local steps = is_warmup and 1 or 20
    return hd.sampler.discrete.ddim(net, hd.randn(shape), schedule, { steps = steps, clip = 1 })
  end
end

-- Workloads -------------------------------------------------------------------------------------------------------
-- name, network, step, batch shape, options of the step, GFLOP forward and of a step

local LR = 2e-4
local WORKLOADS = {
  { "seed_model", plain_net, denoise_step, { 64, 3, 64, 64 }, { lr = 1e-3, optimizer = "Adam" }, 197.80, 592.50 },
  { "unet32", function() return image_net({ 64, 128, 128 }, 2, 32) end, noise_step, { 16, 3, 32, 32 },
    { lr = LR, ema = 0.999 }, 50.80, 152.34 },
  { "unet32_tiny", function() return image_net({ 32, 64, 64 }, 1, 8) end, noise_step, { 32, 3, 32, 32 },
    { lr = LR, ema = 0.999 }, 18.11, 54.28 },
  { "sample32", function() return image_net({ 64, 128, 128 }, 2, 32) end, sample_step, { 16, 3, 32, 32 }, {}, 50.80,
    1015.97 },
  { "audio1d", signal_net, noise_step, { 16, 1, 8192 }, { lr = LR }, 53.25, 159.70 },
  { "text", text_net, mask_step, { 32, 128 }, { lr = 3e-4 }, 28.46, 85.38 },
}

local names, by_name = {}, {}
for i, w in ipairs(WORKLOADS) do
  names[i], by_name[w[1]] = w[1], w
end

-- Timing ----------------------------------------------------------------------------------------------------------

local function milliseconds(seconds) return math.floor(seconds * 1e7 + 0.5) / 1e4 end

local function median(sorted)
  local n = #sorted
  return n % 2 == 1 and sorted[n // 2 + 1] or 0.5 * (sorted[n // 2] + sorted[n // 2 + 1])
end

local function measure(step)
  for _ = 1, 3 do step(true) end
  local times, start = {}, core.clock()
  while true do
    local before = core.clock()
    step(false)
    local now = core.clock()
    times[#times + 1] = now - before
    local total = now - start
    if #times >= 10 and total >= 2 or #times >= 3 and total >= 10 then break end
  end
  table.sort(times)
  return times
end

-- The largest resident set of this process in MiB, nil where the system does not tell.
local function peak_memory()
  local file = io.open "/proc/self/status"
  if not file then return nil end
  local kib = file:read "a":match "VmHWM:%s*(%d+)"
  file:close()
  return kib and math.floor(kib / 1024 * 10 + 0.5) / 10
end

local function run_here(name, threads)
  local _, make, prepare, shape, opts, forward, total = table.unpack(by_name[name])
  local net = make()
  local values, tensors = net:num_parameters()
  local times = measure(prepare(net, shape, opts))
  local middle = median(times)
  return {
    name = name, config = { shape = shape, lr = opts.lr, ema = opts.ema }, params = values, tensors = tensors,
    ms_median = milliseconds(middle), ms_min = milliseconds(times[1]), n = #times, gflop_forward = forward,
    gflop_step = total, gflops_per_s = math.floor(total / middle * 100 + 0.5) / 100, peak_rss_mib = peak_memory(),
    threads = threads, dtype = "float32", device = "cpu",
  }
end

-- Processes -------------------------------------------------------------------------------------------------------

local function quoted(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

-- The program that runs this, as it was called: the first word of the command line.
local function program()
  local first = 0
  while arg[first - 1] do first = first - 1 end
  return arg[first]
end

-- Run one workload in a new process of the same program; its record, or nil and what it printed last.
local function run_apart(name, args)
  local command = ("%s -m bench --child %s --threads %d --seed %d"):format(quoted(program()), name,
    args.threads, args.seed)
  local pipe = assert(io.popen(command .. " 2>&1"))
  local last, record
  for line in pipe:lines() do
    last = line
    record = record or line:match "^RESULT (.*)$"
  end
  pipe:close()
  if not record then return nil, last or "no output" end
  return core.json_decode(record), record
end

local function selected(list)
  if list == "all" then return names end
  local chosen = {}
  for name in list:gmatch "[^,%s]+" do
    if not by_name[name] then
      io.stderr:write(("bench: no workload '%s'. %s\n"):format(name, check.suggestion(name, names)))
      os.exit(2, true)
    end
    chosen[#chosen + 1] = name
  end
  return chosen
end

local function describe(list)
  for _, name in ipairs(list) do
    print(("%s: %d parameters in %d tensors"):format(name, by_name[name][2]():num_parameters()))
  end
end

local function run_all(args)
  local results, failed = {}, false
  for _, name in ipairs(selected(args.workload)) do
    local result, text = run_apart(name, args)
    if result then
      results[#results + 1] = result
      print(text)
    else
      failed = true
      io.stderr:write(("bench: %s failed: %s\n"):format(name, text))
    end
  end
  if args.json then
    local _, isa = core.backend()
    local machine = { cores = core.cores, isa = isa, hdlua = core.version }
    assert(core.file_write(args.json, core.json_encode { machine = machine, results = results } .. "\n"))
  end
  return failed
end

local args = hd.args({
  workload = "all", json = hd.args.string, describe = false, child = hd.args.string,
}, {
  "Time the reference workloads.",
  workload = "names, comma-separated, or all: " .. table.concat(names, ", "),
  json = "write { machine, results } there", describe = "print the networks' sizes instead",
  child = "run one workload in this process",
})
args.threads = args.threads or core.threads()

if args.child then
  print("RESULT " .. core.json_encode(run_here(args.child, args.threads)))
elseif args.describe then
  describe(selected(args.workload))
else
  os.exit(run_all(args) and 1 or 0, true)
end
