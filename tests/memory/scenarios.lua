-- tests/memory/scenarios.lua: small programs that touch everything that takes memory. Each returns what it computed: a
-- tensor, a string, or a list of those; the same each time. `folder` is theirs to write in.

local hd = require "hd"
local core = require "hd.core"
local nn, F, optim = hd.nn, hd.nn.functional, hd.optim

-- Numbers that depend on the call alone.
local function randn(...) return hd.randn({ ... }, { rng = hd.rng(3) }) end

-- The value of y, and the gradients of the leaves.
local function with_gradients(y, ...)
  y:sum():backward()
  local list = { y:detach() }
  for i, leaf in ipairs { ... } do
    list[i + 1] = leaf:grad()
    leaf:set_grad(nil)
  end
  return list
end

local function leaf(...) return randn(...):requires_grad_() end

local function small_net()
  hd.seed(4)
  return nn.Sequential(nn.Conv2d(3, 8, 3, { padding = 1 }), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 3, 1))
end

local function pictures(opts)
  local set = hd.data.shapes { size = 8, n = 24 }
  local H = hd.hierarchy.images { size = 8, regime = opts and opts.regime }:fit_stats(set)
  hd.seed(2)
  return H, set.x:to "f32" * (1 / 127.5) - 1, H:models { width = 8 }
end

local list = {} -- { name, function(folder) }, in order

local function scenario(name, fn) list[#list + 1] = { name = name, run = fn } end

scenario("arithmetic", function()
  local x, y = leaf(5, 1, 6), leaf(4, 6)
  local z = (x * y + x / (y ^ 2 + 1) - 2 ^ x):tanh():clamp(-0.5, 0.9)
  z:add_(1):mul_(3):sigmoid_()
  local mask = x:detach():gt(0):to "f32" + y:detach():le(x:detach()):to "f64"
  return { mask, table.unpack(with_gradients(z, x, y)) }
end)

scenario("large arithmetic on threads", function()
  local x = randn(400, 300)
  local y = x:transpose(1, 2)
  return { (x * 2 + y:contiguous():view(400, 300)):gelu(), x:sum(1), x:softmax(2), y:exp() }
end)

scenario("checkpoints", function()
  local net, x = small_net(), leaf(2, 3, 6, 5)
  local function inner(h) return F.dropout(net(h), { p = 0.2 }), h:exp() end
  local function outer(h)
    local y, z = hd.checkpoint(inner, h)
    return y * z + h
  end
  return with_gradients(hd.checkpoint(outer, x), x, table.unpack(net:parameters()))
end)

scenario("reductions", function()
  local x = leaf(6, 7, 5)
  local highest, at = x:max(2)
  local parts = x:sum({ 1, 3 }):sum() + x:mean(2):norm() + x:var(3):sum() + x:prod(1):sum() + highest:sum() +
    x:cumsum(2):std() + x:logsumexp(1):sum() + (x:log_softmax(3) * x:softmax(1)):sum()
  return { at, table.unpack(with_gradients(parts, x)) }
end)

scenario("products", function()
  local a, b, w = leaf(3, 20, 30), leaf(3, 30, 10), leaf(40, 10)
  local q = leaf(2, 4, 33, 16)
  local y = F.linear(a:matmul(b), w):sum() + F.scaled_dot_product_attention(q, q, q):sum()
  return with_gradients(y, a, b, w, q)
end)

scenario("large product on threads", function()
  local a = randn(200, 300)
  local b = a:transpose(1, 2)
  return { a:matmul(b), a:to "f64":matmul(b:to "f64") }
end)

scenario("convolutions", function()
  local x, w, one, b = leaf(2, 16, 12, 12), leaf(24, 16, 3, 3), leaf(8, 24, 1, 1), leaf(24)
  local strided, grouped, up = leaf(16, 16, 4, 4), leaf(16, 4, 3, 3), leaf(16, 8, 4, 4)
  local y = F.conv2d(F.conv2d(x, w, b, { padding = 1 }), one):sum() +
    F.conv2d(x, strided, nil, { stride = 2, padding = 1 }):sum() +
    F.conv2d(x, grouped, nil, { padding = 1, groups = 4 }):sum() +
    F.conv_transpose2d(x, up, nil, { stride = 2, padding = 1 }):sum()
  return with_gradients(y, x, w, one, b, strided, grouped, up)
end)

scenario("sequences", function()
  local x, w, up = leaf(2, 6, 40), leaf(8, 6, 5), leaf(6, 4, 4)
  local y = F.conv1d(x, w, nil, { padding = 2, dilation = 1 }):sum() +
    F.conv_transpose1d(x, up, nil, { stride = 2 }):sum()
  return with_gradients(y, x, w, up)
end)

scenario("norms", function()
  local x, w, b = leaf(3, 8, 6, 6), leaf(8), leaf(8)
  local row, rw = leaf(9, 32), leaf(32)
  local y = (F.group_norm(x, 4, w, b) * F.instance_norm(x)):sum() + (F.layer_norm(row, { 32 }, rw) * row):sum() +
    (F.rms_norm(row, { 32 }, rw) ^ 3):sum()
  return with_gradients(y, x, w, b, row, rw)
end)

scenario("indexing", function()
  local x, table_ = leaf(6, 5, 4), leaf(10, 7)
  local ids = hd.tensor({ { 1, 9, 3 }, { 10, 2, 2 } }, { dtype = "i64" })
  local rows = hd.tensor({ 5, 1 }, { dtype = "i64" })
  local y = x[{ { 2, 4 }, {}, 1 }]:sum() + x:select(1, 3):index_select(1, rows):sum() +
    x:gather(3, hd.ones({ 6, 5, 2 }, { dtype = "i64" })):sum() + F.embedding(ids, table_):tanh():sum() +
    hd.where(x:gt(0), x, x * 0.1):sum() + x:masked_fill(x:lt(0), 2):sum()
  local z = hd.zeros(4, 5)
  z[2] = 7
  z[{ {}, { 2, 3 } }] = hd.ones(4, 2)
  z[1][1] = 3
  return { z, table.unpack(with_gradients(y, x, table_)) }
end)

scenario("views and joining", function()
  local x = leaf(4, 6, 3)
  local y = hd.cat({ x:permute(3, 1, 2), x:permute(3, 1, 2):flip(2) }, 1)
  local z = hd.stack({ y:narrow(1, 1, 3), y:narrow(1, 2, 3) }, 2):reshape(-1, 6):expand(5, -1, -1)
  local parts = z:chunk(2, 2)
  return with_gradients((parts[1] * 2):sum() + parts[2]:unsqueeze(1):squeeze():tile({ 1, 2, 1 }):norm(), x)
end)

scenario("resizing", function()
  local x = leaf(2, 4, 8, 8)
  local y = F.interpolate(x, { scale_factor = 2, mode = "bilinear" }):sum() +
    F.interpolate(x, { size = { 5, 3 }, mode = "nearest" }):norm() + F.avg_pool2d(x, 2):norm() +
    F.max_pool2d(x, 2):norm() + F.pad(x, { 1, 2, 0, 1 }):norm() +
    F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2):norm()
  return with_gradients(y, x)
end)

scenario("losses", function()
  local x, y = leaf(6, 5), randn(6, 5)
  local class = hd.tensor({ 1, 5, 2, 3, 1, 4 }, { dtype = "i64" })
  local loss = F.mse_loss(x, y) + F.l1_loss(x, y) + F.huber_loss(x, y) + F.cross_entropy(x, class)
  hd.seed(9)
  return with_gradients(loss + F.dropout(x):sum(), x)
end)

scenario("the reference back end", function()
  local _ <close> = setmetatable({}, { __close = function() hd.backend "cpu" end })
  hd.backend "ref"
  local x, w = leaf(1, 4, 6, 6), leaf(4, 4, 3, 3)
  local y = F.conv2d(x, w, nil, { padding = 1 })
  return with_gradients(F.group_norm(y, 2):silu():matmul(y):softmax(2):cumsum(1):mean(), x, w)
end)

scenario("making tensors", function()
  hd.seed(1)
  local t = hd.tensor({ { 1, 2, 3 }, { 4, 5, 6 } })
  local numbers = t:totable()
  assert(numbers[2][3] == 6 and #t:shape() == 2)
  return { t, hd.eye(4), hd.arange(1, 9, 2), hd.linspace(0, 1, 7), hd.full({ 2, 2 }, 3), hd.rand(3, 4), hd.randn(5),
    hd.randint(1, 6, 10), hd.zeros_like(t), hd.randn_like(t), hd.rand(4):bernoulli_(0.5) }
end)

scenario("a training step", function()
  local net = small_net()
  local opt = optim.AdamW(net:parameters(), { lr = 1e-2 })
  local ema = optim.EMA(net, { decay = 0.9 })
  for _ = 1, 2 do
    local loss = F.mse_loss(net(randn(2, 3, 8, 8)), randn(2, 3, 8, 8))
    opt:zero_grad()
    loss:backward()
    optim.clip_grad_norm_(net:parameters(), 1)
    opt:step()
    ema:update()
  end
  return { net[1].weight:detach(), ema.model[4].weight:detach() }
end)

scenario("attention and transformers", function()
  hd.seed(6)
  local net = nn.Transformer { vocab_size = 12, dim = 16, depth = 1, heads = 2, max_length = 10 }
  local ids = hd.tensor({ { 1, 5, 9, 12 } }, { dtype = "i64" })
  return with_gradients(net(ids, hd.tensor { 0.5 }), net:parameters()[1])
end)

scenario("files", function(folder)
  local x, y = randn(4, 5), hd.arange(1, 300)
  assert(hd.save(folder .. "/a.npy", x))
  assert(hd.save(folder .. "/a.npz", { x = x, y = y }))
  assert(hd.save(folder .. "/a.safetensors", { ["a/x"] = x, y = y }, { metadata = { name = "value" } }))
  local z, s = assert(hd.load(folder .. "/a.npz")), assert(hd.load(folder .. "/a.safetensors"))
  return { assert(hd.load(folder .. "/a.npy")), z.x, z.y, s["a/x"], s.y }
end)

scenario("a run with checkpoints", function(folder)
  local net = small_net()
  local opt = optim.AdamW(net:parameters(), { lr = 1e-2 })
  local set = hd.data.shapes { size = 8, n = 8 }
  for round = 1, 2 do
    local run <close> = assert(hd.run.new { out = folder .. "/run", settings = { a = 1 }, resume = round == 2,
      state = { net = net, opt = opt } })
    for _, x in run:steps(set:batches { size = 4, seed = 1 }, 4, { stop_at = 2 * round }) do
      local loss = F.mse_loss(net(x), x)
      opt:zero_grad()
      loss:backward()
      opt:step()
      run:log { loss = loss, levels = { a = 0.5 } }
    end
    assert(run:save())
  end
  return net[1].weight:detach()
end)

scenario("samplers", function()
  local sigmas = { 8, 3, 1, 0.3, 0 }
  local function denoise(x, sigma) return x / (1 + sigma ^ 2) end
  local results = {}
  for i, name in ipairs { "euler", "heun", "dpmpp_2m", "ddim" } do
    results[i] = hd.sampler[name](denoise, randn(2, 3, 4, 4) * 8, sigmas, { rng = hd.rng(5) })
  end
  return results
end)

scenario("splitting and losses of a hierarchy", function()
  local H, x, models = pictures()
  local z = H:split(x:narrow(1, 1, 2))
  hd.seed(3)
  local loss = H:loss(models, x:narrow(1, 1, 4))
  loss:backward()
  return { H:join(z), loss:detach(), models:parameters()[1]:grad() }
end)

scenario("samples of a hierarchy", function()
  local H, _, models = pictures()
  local x, levels = H:sample(models, 2, { seed = 7, steps = 2, all = true })
  return { x, levels.shapes }
end)

scenario("samples of the flat regime", function()
  local H, _, models = pictures { regime = "flat" }
  return H:sample(models, 2, { seed = 7, steps = 2 })
end)

scenario("batches from a thread", function()
  local set = hd.data.shapes { size = 8, n = 16 }
  local batches = set:batches { size = 4, seed = 2, flip = true, prefetch = 2 }
  local x, labels
  for _ = 1, 6 do x, labels = batches() end
  return { x, labels }
end)

scenario("pictures", function(folder)
  local x = randn(3, 9, 7):clamp(-1, 1)
  assert(hd.image.save(folder .. "/a.png", x))
  local y = assert(hd.image.load(folder .. "/a.png"))
  local small = hd.image.resize(y, 5, 12)
  assert(core.folder_make(folder .. "/set"))
  for i = 1, 2 do assert(hd.image.save(("%s/set/%d.png"):format(folder, i), x)) end
  local set = assert(hd.data.folder(folder .. "/set", { size = 8 }))
  return { y, small, hd.image.grid(hd.stack { x, x }), set.x }
end)

scenario("plots", function(folder)
  local picture = hd.plot.lines({ { name = "a", x = { 1, 2, 3 }, y = { 3, 1, 2 } } }, { title = "t" })
  assert(hd.image.save(folder .. "/plot.png", picture))
  return picture
end)

scenario("JSON", function()
  local text = core.json_encode { a = { 1, 2.5, "three", true }, b = { c = { d = "e" } } }
  return { text, core.json_encode(assert(core.json_decode(text))) }
end)

scenario("printing", function()
  local x = randn(12, 10)
  return { tostring(x), tostring(hd.tensor { true, false }), tostring(small_net()), tostring(hd.rng(1)),
    small_net():summary { 1, 3, 8, 8 } }
end)

scenario("scopes", function()
  local kept
  do
    local outer <close> = hd.scope()
    do
      local s <close> = hd.scope()
      local _ <close> = hd.no_grad()
      kept = s:keep((randn(5, 5) * 2):exp())
    end
    outer:keep(kept)
    hd.no_grad(function() return randn(5, 5) + kept end)
  end
  return kept
end)

scenario("gradcheck", function()
  local x = hd.randn({ 3, 4 }, { dtype = "f64", rng = hd.rng(1) }):requires_grad_()
  assert(hd.gradcheck(function(a) return (a * a):softmax(2) end, { x }))
  return x:detach()
end)

scenario("errors", function()
  for _, case in ipairs {
    { "matmul", function() return randn(2, 3):matmul(randn(2, 3)) end },
    { "channel", function() return F.conv2d(randn(1, 3, 4, 4), randn(2, 4, 3, 3)) end },
    { "padding", function() return nn.Conv2d(3, 4, 3, { pading = 1 }) end },
    { "sequential[1]", function() return small_net()(randn(1, 4, 8, 8)) end },
    { "nowhere", function() return assert(hd.load "/nowhere/a.npy") end },
  } do
    local _, message = pcall(case[2])
    assert(message:find(case[1], 1, true), message)
  end
  return "all were caught"
end)

scenario("anomaly mode", function()
  local _ <close> = hd.detect_anomaly()
  local x = leaf(4, 4)
  return with_gradients((x * x):exp():log(), x)
end)

return list
