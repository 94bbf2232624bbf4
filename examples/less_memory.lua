-- examples/less_memory.lua: the same training in half of the memory, in two ways: backward computes what is inside a
-- block again, or reads it rounded to bf16.
--
--     hdlua examples/less_memory.lua --size 32 --batch 16
--
-- Trains one U-Net four times and prints for each the time of a step, the peak of memory, how much of it is
-- activations, and the loss. Recomputing gives the same bits for a third more time; bf16 costs little time, and rounds.

local hd = require "hd"
local nn, F = hd.nn, hd.nn.functional

local args = hd.args({ steps = 5, batch = 16, size = 32, width = 64 }, {
  "Train with and without recomputation, and with activations in f32 and bf16.",
  steps = "training steps", batch = "pictures in a step", size = "pixels of a side", width = "channels at full size",
})

local pictures = hd.data.shapes { size = args.size, n = 64 }
local abar = hd.schedule.linear { T = 1000 }:alphas_cumprod():to "f32"

-- The loss of the last step, seconds a step, and what memory held at most.
local function train(recompute, activations)
  hd.activations(activations) -- this line is all it takes
  hd.seed(args.seed)
  local net = nn.UNet { block_out_channels = { args.width, 2 * args.width }, gradient_checkpointing = recompute }
  local opt = hd.optim.AdamW(net:parameters(), { lr = 2e-4 })
  local batches = pictures:batches { size = args.batch, seed = args.seed }
  collectgarbage()
  hd.reset_peak_memory()
  local start, loss = hd.clock(), nil
  for _ = 1, args.steps do
    local t, x0 = hd.randint(1, 1000, { args.batch }), batches()
    local a, eps = abar:index_select(1, t):view(-1, 1, 1, 1), hd.randn(x0:shape())
    loss = F.mse_loss(net(a:sqrt() * x0 + (1 - a):sqrt() * eps, t - 1), eps)
    opt:zero_grad()
    loss:backward()
    opt:step()
  end
  return loss:item(), (hd.clock() - start) / args.steps, hd.memory()
end

for _, way in ipairs { { false, "f32" }, { true, "f32" }, { false, "bf16" }, { true, "bf16" } } do
  local recompute, activations = table.unpack(way)
  local loss, seconds, memory = train(recompute, activations)
  print(("%-11s %-4s loss %.9g  %.3f s a step  %4.0f MiB, %4.0f of them activations"):format(
    recompute and "recomputing" or "keeping all", activations, loss, seconds, memory.peak / 2^20,
    memory.peak_kinds.activations / 2^20))
end
