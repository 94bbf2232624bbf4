-- examples/less_memory.lua: the same training in half of the memory: backward computes what is inside a block again.
--
--     hdlua examples/less_memory.lua --size 32 --batch 16
--
-- Trains one U-Net twice, keeping everything and recomputing, and prints for both the time of a step, the peak of
-- memory and the loss, which has the same bits.

local hd = require "hd"
local nn, F = hd.nn, hd.nn.functional

local args = hd.args({ steps = 5, batch = 16, size = 32, width = 64 }, {
  "Train with and without recomputation.",
  steps = "training steps", batch = "pictures in a step", size = "pixels of a side", width = "channels at full size",
})

local pictures = hd.data.shapes { size = args.size, n = 64 }
local abar = hd.schedule.linear { T = 1000 }:alphas_cumprod():to "f32"

-- The loss of the last step, seconds a step, and the most bytes that were held.
local function train(recompute)
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
  return loss:item(), (hd.clock() - start) / args.steps, hd.memory().peak
end

for _, recompute in ipairs { false, true } do
  local loss, seconds, bytes = train(recompute)
  print(("%-13s loss %.9g  %.3f s a step  %.0f MiB"):format(recompute and "recomputing" or "keeping all", loss, seconds,
    bytes / 2^20))
end
