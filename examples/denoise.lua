-- examples/denoise.lua: the smallest lesson: four convolutions learn to remove noise from pictures.
--
--     hdlua examples/denoise.lua --steps 300 --out denoised.png
--
-- Writes a picture with three rows, noisy, denoised and clean, and prints the PSNR before and after.

local hd = require "hd"
local nn, F = hd.nn, hd.nn.functional

local args = hd.args({ steps = 300, batch = 8, size = 64, noise = 0.1, lr = 1e-3, out = "denoised.png" }, {
  "Train a small network to remove noise.",
  steps = "training steps", batch = "pictures in a step", size = "pixels of a side",
  noise = "standard deviation of the noise, pictures are in [0,1]", out = "the picture to write",
})

-- Pictures in [0, 1]: emoji where the font is installed, drawn shapes elsewhere.
local set = hd.data.emoji { size = args.size } or hd.data.shapes { size = args.size }
local batches = set:batches { size = args.batch, seed = args.seed }
local function next_pictures() return (batches() + 1) * 0.5 end

local function conv(from, to) return nn.Conv2d(from, to, 3, { padding = 1 }) end

local net = nn.Sequential(conv(3, 64), F.relu, conv(64, 128), F.relu, conv(128, 256), F.relu, conv(256, 3))
local opt = hd.optim.Adam(net:parameters(), { lr = args.lr })

for step = 1, args.steps do
  local clean = next_pictures()
  local noisy = clean + hd.randn(clean:shape()) * args.noise
  local loss = F.mse_loss(net(noisy), clean)
  opt:zero_grad()
  loss:backward()
  opt:step()
  if step % 20 == 0 or step == args.steps then print(("step %d  loss %.5f"):format(step, loss:item())) end
end

-- Peak signal-to-noise ratio in dB, for values in [0, 1].
local function psnr(x, clean) return -10 * math.log(F.mse_loss(x, clean):item(), 10) end

hd.no_grad(function()
  local clean = next_pictures()
  local noisy = clean + hd.randn(clean:shape()) * args.noise
  local denoised = net(noisy):clamp_(0, 1)
  print(("PSNR of the noisy pictures    %.2f dB"):format(psnr(noisy, clean)))
  print(("PSNR of the denoised pictures %.2f dB"):format(psnr(denoised, clean)))
  local rows = hd.cat({ noisy:clamp(0, 1), denoised, clean }, 1) * 2 - 1
  assert(hd.image.save(args.out, hd.image.grid(rows, { columns = args.batch })))
  print("wrote " .. args.out)
end)
