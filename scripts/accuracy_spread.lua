-- scripts/accuracy_spread.lua: does training end where exacter training does?
--
--     build/hdlua scripts/accuracy_spread.lua --steps 500 --batch 8 --seeds 3
--     build/hdlua scripts/accuracy_spread.lua --what activations
--
-- Trains the network of the workload unet32_tiny on drawn shapes in two ways with each seed. `--what conv` (default):
-- without Winograd's method ("strict", HDLUA_CONV=shift) and with it. `--what activations`: with hd.activations "f32"
-- and "bf16". A seed decides weights, batches and noise, so the two runs of one seed differ by rounding alone. Each
-- run is a process of its own. Prints the mean loss of the last 50 steps of each run, and fails where the mean of the
-- second way is outside of the first way's. Runs that are done are not done again; one that was cut off goes on from
-- its checkpoint.

local hd = require "hd"
local args = hd.args { steps = 500, batch = 8, seeds = 3, last = 50, what = "conv", out = "runs/accuracy", child = "" }

-- The exact way and the other one, and what the environment says.
local WAYS = {
  conv = { "strict", "default", strict = "HDLUA_CONV=shift", default = "HDLUA_CONV=winograd" },
  activations = { "f32", "bf16", f32 = "", bf16 = "" },
}
local ways = assert(WAYS[args.what], "--what is conv or activations")

local function network()
  return hd.nn.UNet {
    block_out_channels = { 32, 64, 64 }, layers_per_block = 1, norm_num_groups = 8, num_attention_heads = 4,
    down_block_types = { "DownBlock2D", "AttnDownBlock2D", "DownBlock2D" }, fuse_qkv = true, time_dim = 64,
    time_embed_dim = 256,
  }
end

-- The loss of predicting the noise at random times.
local schedule = hd.schedule.linear { T = 1000 }
local abar = schedule:alphas_cumprod()
local alphas, sigmas = abar:sqrt():to "f32", (1 - abar):sqrt():to "f32"
local function loss_of(net, x)
  local n = x:size(1)
  local t, noise = hd.randint(1, 1000, { n }), hd.randn_like(x)
  local noisy = alphas:index_select(1, t):view(n, 1, 1, 1) * x + sigmas:index_select(1, t):view(n, 1, 1, 1) * noise
  return hd.nn.functional.mse_loss(net(noisy, t - 1), noise)
end

local function folder(mode, seed) return ("%s/%s_%d"):format(args.out, mode, seed) end

local function train(mode, seed)
  if args.what == "activations" then hd.activations(mode) end
  local net = network()
  local opt = hd.optim.AdamW(net:parameters(), { lr = 2e-4 })
  local run <close> = assert(hd.run.new { out = folder(mode, seed), resume = true,
    settings = { mode = mode, seed = seed, batch = args.batch, steps = args.steps }, state = { net = net, opt = opt } })
  local batches = hd.data.shapes { size = 32, n = 4000 }:batches { size = args.batch, seed = seed }
  for _, x in run:steps(batches, args.steps) do
    local loss = loss_of(net, x)
    opt:zero_grad()
    loss:backward()
    opt:step()
    run:log { loss = loss }
  end
end

if args.child ~= "" then
  train(args.child, args.seed)
  os.exit(true, true)
end

-- The mean loss of the last steps in a log.
local function final_loss(path)
  local sum, count = 0, 0
  for line in io.lines(path) do
    local step, loss = line:match '"step":(%d+)', line:match '"loss":([%d.e+-]+)'
    if loss and tonumber(step) > args.steps - args.last then sum, count = sum + tonumber(loss), count + 1 end
  end
  assert(count == math.min(args.last, args.steps), path .. ": steps are missing")
  return sum / count
end

local function final_of(mode, seed)
  local command = ("%s '%s' '%s' --what %s --child %s --seed %d --steps %d --batch %d --out '%s'"):format(ways[mode],
    arg[-1], arg[0], args.what, mode, seed, args.steps, args.batch, args.out)
  assert(os.execute(command), "a run has failed: " .. folder(mode, seed))
  return final_loss(folder(mode, seed) .. "/log.jsonl")
end

local exact, other = ways[1], ways[2]
local final = { [exact] = {}, [other] = {} }
for seed = 1, args.seeds do
  for _, mode in ipairs(ways) do final[mode][seed] = final_of(mode, seed) end
end

print(("mean loss of steps %d to %d"):format(args.steps - args.last + 1, args.steps))
print(("seed     %-10s  %-10s  %s / %s - 1"):format(exact, other, other, exact))
local sum = 0
for seed = 1, args.seeds do
  local a, b = final[exact][seed], final[other][seed]
  sum = sum + b
  print(("%4d   %.8f  %.8f  %.1g"):format(seed, a, b, b / a - 1))
end
local mean, low, high = sum / args.seeds, math.min(table.unpack(final[exact])), math.max(table.unpack(final[exact]))
local inside = mean >= low and mean <= high
print(("%s: mean %.5f, %s: from %.5f to %.5f: %s"):format(other, mean, exact, low, high,
  inside and "inside" or "OUTSIDE"))
os.exit(inside and 0 or 1, true)
