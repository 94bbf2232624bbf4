-- examples/superres.lua: from pictures of 16 pixels to pictures of 64, with a cascade of two levels.
--
--     hdlua examples/superres.lua --data emoji --minutes 10 --out runs/superres
--
-- Level `small` is the low band of two wavelet steps: the picture at a quarter of its size. Level `detail` is all that
-- it lacks. Each is diffused by a network of its own; `detail` sees `small`, with a little noise in training, since
-- what it sees when drawing is not perfect either (Ho et al. 2022).
-- OUT/enlarged.png shows, row by row, a small picture that was held, what was made of it, and the real one;
-- OUT/samples.png pictures drawn from nothing. --only detail trains the enlarging network alone.

local hd = require "hd"

local args = hd.args({
  data = "emoji", size = 64, minutes = 10.0, steps = hd.args.integer, batch = 16, width = 32, lr = 2e-3,
  wavelet = "db2", only = { "both", "detail" }, t_aug = 0.2, out = "runs/superres", samples = 8, resume = false,
}, {
  "Train a cascade that enlarges pictures four times.",
  data = "emoji, shapes or folder:DIR", size = "pixels of a side", minutes = "train so long",
  steps = "train so many steps instead of --minutes", batch = "pictures in a step", width = "channels of the networks",
  lr = "highest learning rate", wavelet = "haar, or db2 to db8: what small pictures are made with",
  only = "train both levels, or the enlarging one alone", t_aug = "largest noise on the small picture in training",
  out = "the folder for everything that is written", samples = "pictures to draw at the end",
  resume = "go on from the last checkpoint in OUT",
})

-- Data --------------------------------------------------------------------------------------------------------------

local function open_data(kind, dir)
  if kind == "folder" then return hd.data.folder(dir, { size = args.size }) end
  local set = kind == "emoji" and hd.data.emoji { size = args.size }
  return set or hd.data.shapes { size = args.size, n = 500 }
end

local data = assert(open_data(args.data:match "^(%a*):?(.*)$"))
local batches = data:batches { size = args.batch, seed = args.seed, flip = true }

-- Two levels --------------------------------------------------------------------------------------------------------

local wavelet, haar = hd.hierarchy.wavelet, hd.hierarchy.haar

local function split(x)
  local small, details = wavelet.split(x, 2, args.wavelet)
  return { small = small, detail = hd.cat({ details[1], haar.fold(details[2], 2) }, 2) }
end

local function join(z)
  local coarse = 3 * z.small:size(2)
  local fine = z.detail:narrow(2, coarse + 1, 4 * coarse)
  return wavelet.join(z.small, { z.detail:narrow(2, 1, coarse), haar.unfold(fine, 2) }, args.wavelet)
end

-- The network of details works on the picture that they make alone, where neighbours are neighbours.
local frame = {
  to = function(z)
    local s = z:shape()
    return join { small = hd.zeros(s[1], s[2] // 15, s[3], s[4], { dtype = z:dtype() }), detail = z }
  end,
  from = function(x) return split(x).detail end,
}

local H = hd.hierarchy.new {
  name = "superres", split = split, join = join, shape = { 3, args.size, args.size }, range = { -1, 1 },
  t_aug = args.t_aug, t_aug_sample = 0.05,
  levels = {
    { name = "small", schedule = hd.schedule.karras { p_mean = 0.0, p_std = 1.5 } },
    { name = "detail", frame = frame },
  },
}
H:check(data)
H:fit_stats(data)
print(H)

-- Training ----------------------------------------------------------------------------------------------------------

local models = H:models { width = args.width, levels = args.only == "detail" and { "detail" } or nil }
local params = models:parameters()
local opt = hd.optim.AdamW(params, { lr = args.lr })
local ema = hd.optim.EMA(models, { decay = 0.999 })

local function train(x)
  local loss, parts = H:loss(models, x)
  opt:zero_grad()
  loss:backward()
  hd.optim.clip_grad_norm_(params, 1)
  opt:step()
  ema:update()
  return loss, parts
end

local run <close> = assert(hd.run.new {
  out = args.out, settings = args, resume = args.resume,
  state = { models = models, opt = opt, ema = ema, statistics = H },
})

local real = data:batches { size = args.samples, seed = 1 }()
local held = H:split(real).small

-- Small pictures as they are, enlarged by repeating pixels, for the eye. Two wavelet steps make numbers 4 times as
-- large.
local function shown(small)
  return hd.nn.functional.interpolate(small * 0.25, { scale_factor = 4, mode = "nearest" })
end

local function enlarge() return H:sample(ema.model, args.samples, { seed = args.seed, hold = { small = held } }) end

local steps = args.steps or run:plan(args.minutes, function() train(real) end)
local rate = hd.optim.lr.cosine(opt, { steps = steps, warmup = math.min(100, steps // 10), final = 0.02 })
run.state.rate = rate
for _, x in run:steps(batches, steps) do
  local loss, parts = train(x)
  run:log { loss = loss, levels = parts }
  rate:step()
  if run:due("samples", 60) then run:show(enlarge()) end
end

-- Results -----------------------------------------------------------------------------------------------------------

local large = enlarge()
local rows = hd.cat({ shown(held), large, real }, 1):clamp(-1, 1)
assert(hd.image.save(args.out .. "/enlarged.png", hd.image.grid(rows, { columns = args.samples })))
assert(hd.save(args.out .. "/enlarged.npy", large))
run:say(("wrote %s/enlarged.png"):format(args.out))
if args.only == "both" then
  local x = H:sample(ema.model, args.samples, { seed = args.seed }):clamp(-1, 1)
  assert(hd.image.save(args.out .. "/samples.png", hd.image.grid(x)))
end
