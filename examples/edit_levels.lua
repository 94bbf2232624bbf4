-- examples/edit_levels.lua: edit pictures level by level with a model that examples/train_images.lua has trained.
--
--     hdlua examples/train_images.lua --data emoji --minutes 10 --out runs/emoji
--     hdlua examples/edit_levels.lua --model runs/emoji/model.safetensors --out edits
--
-- Without --model a small one is trained first, in the folder OUT, for --minutes or --steps. OUT.png has one column
-- for each picture and these rows:
--   1  the picture itself                        4  recoloured: shapes and textures held, colours drawn
--   2  new textures: shapes and colours held     5  a variation: half of the noise, then drawn again
--   3  shape and colour of its left neighbour,   6  inpainted: the right half drawn to fit the left one
--      textures of its own

local hd = require "hd"

local args = hd.args({
  model = "", data = "emoji", size = 32, n = 8, minutes = 2.0, steps = hd.args.integer, draw_steps = hd.args.integer,
  width = 32, out = "edits", resume = false,
}, {
  "Edit pictures level by level.",
  model = "a file of examples/train_images.lua; without it a model is trained first", data = "emoji or shapes",
  size = "pixels of a side, where a model is trained", n = "pictures", minutes = "train so long",
  steps = "train so many steps instead of --minutes", draw_steps = "sampling steps of each level (18)",
  width = "channels of the networks", out = "the picture is OUT.png, its numbers OUT.npy, a training's folder OUT",
  resume = "go on with an interrupted training",
})

local function open_data(size)
  return args.data == "emoji" and hd.data.emoji { size = size } or hd.data.shapes { size = size, n = 500 }
end

-- A model: from a file, or trained here -----------------------------------------------------------------------------

local function read_model()
  local H, models = hd.hierarchy.load(args.model)
  assert(H, models)
  return H, models
end

local function train_model()
  local data = open_data(args.size)
  local H = hd.hierarchy.images { size = args.size }:fit_stats(data)
  local models = H:models { width = args.width }
  local opt, ema = hd.optim.AdamW(models:parameters(), { lr = 2e-3 }), hd.optim.EMA(models)
  local run <close> = assert(hd.run.new { out = args.out, settings = args, resume = args.resume,
    state = { models = models, opt = opt, ema = ema, statistics = H } })
  local function train(x)
    local loss, parts = H:loss(models, x)
    opt:zero_grad()
    loss:backward()
    opt:step()
    ema:update()
    return loss, parts
  end
  local batches = data:batches { size = 32, seed = args.seed }
  local first = data:batches { size = 32, seed = args.seed }()
  for _, x in run:steps(batches, args.steps or run:plan(args.minutes, function() train(first) end)) do
    local loss, parts = train(x)
    run:log { loss = loss, levels = parts }
  end
  assert(H:save(args.out .. "/model.safetensors", ema.model))
  return H, ema.model
end

local H, models
if args.model ~= "" then H, models = read_model() else H, models = train_model() end

-- Edits -------------------------------------------------------------------------------------------------------------

local size = H.crop.size
local x = open_data(size):batches { size = args.n, seed = args.seed }()
local z = H:split(x)

local function draw(opts)
  opts.seed, opts.steps = args.seed, args.draw_steps
  return H:sample(models, args.n, opts)
end

-- Every entry in the place of its right neighbour.
local function from_left(t) return hd.cat({ t:narrow(1, args.n, 1), t:narrow(1, 1, args.n - 1) }, 1) end

local left_half = hd.zeros(1, 1, size, size)
left_half:narrow(4, 1, size // 2):add_(1)

local rows = {
  x,
  draw { hold = { shapes = z.shapes, colours = z.colours } },
  H:join { shapes = from_left(z.shapes), colours = from_left(z.colours), textures = z.textures },
  draw { hold = { shapes = z.shapes, textures = z.textures } },
  draw { start_from = { x = x, t = 0.5 } },
  draw { inpaint = { x = x, mask = left_half } },
}

assert(hd.image.save(args.out .. ".png", hd.image.grid(hd.cat(rows, 1):clamp(-1, 1), { columns = args.n })))
assert(hd.save(args.out .. ".npy", hd.stack(rows, 1)))
print(("wrote %s.png"):format(args.out))
