-- Where does a training step spend its time and its memory? Profiles one step of a small U-Net: all of it, then the
-- backward pass alone, and tells the costliest layer. For a script of your own that needs no change at all:
--
--     hdlua --profile train.lua
--
-- Run: hdlua examples/profile.lua [--width N] [--batch N] [--steps N]

local hd = require "hd"
local args = hd.args { width = 32, batch = 8, steps = 5 }

local net = hd.nn.UNet { block_out_channels = { args.width, 2 * args.width }, norm_num_groups = 8 }
local opt = hd.optim.AdamW(net:parameters(), { lr = 1e-3 })
local x = hd.rand(args.batch, 3, 32, 32) * 2 - 1

local function loss_of()
  local noise, t = hd.randn_like(x), hd.randint(0, 999, { args.batch })
  return hd.nn.functional.mse_loss(net(x * 0.5 + noise * 0.5, t), noise)
end

local function step()
  opt:zero_grad()
  local loss = loss_of()
  loss:backward()
  opt:step()
  return loss
end

step() -- the first step also makes the optimizer's state and takes memory from the system

-- A function: its report, then its results.
local report, loss = hd.profile(function()
  for _ = 2, args.steps do step() end
  return step()
end)
print(report)
print(("loss %.4f"):format(loss:item()))

-- A part of a script: from here ...
local forward = loss_of()
local running = hd.profile()
forward:backward()
local backward = running:stop() -- ... to here
print(("one backward pass: %.1f ms"):format(1e3 * backward.seconds))

-- The rows are plain tables.
local layers, costliest = {}
for _, row in ipairs(report.rows) do
  if row.layer then layers[row.layer] = (layers[row.layer] or 0) + row.seconds end
end
for layer, seconds in pairs(layers) do -- order free: the largest is looked for
  if not costliest or seconds > layers[costliest] then costliest = layer end
end
print(("costliest layer: %s, %.1f %% of the time"):format(costliest, 100 * layers[costliest] / report.seconds))

print "memory at the peak, in MiB:"
local memory = hd.memory()
for _, kind in ipairs { "parameters", "gradients", "activations", "optimizer", "tensors", "workspace" } do
  print(("  %-12s %8.2f"):format(kind, memory.peak_kinds[kind] / 2 ^ 20))
end
