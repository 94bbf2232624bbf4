-- tests/lua/nn_spec.lua: layers, models, state.

local core = require "hd.core"
local class = require "hd.class"
local nn = require "hd.nn"
local F = nn.functional

local function near(expected, got, tolerance)
  assert.is_true(math.abs(expected - got) <= (tolerance or 1e-5), ("got %g, expected %g"):format(got, expected))
end

-- Largest difference of two tensors, relative to the second's largest value.
local function distance(a, b)
  return (a - b):abs():amax():item() / math.max(1e-30, b:abs():amax():item())
end

local function small_unet(opts)
  local o = { block_out_channels = { 8, 16 }, layers_per_block = 1, norm_num_groups = 4, attention_head_dim = 4 }
  for key, value in pairs(opts or {}) do o[key] = value end
  return nn.UNet(o)
end

local function shape_of(x) return table.concat(x:shape(), ",") end

local function error_of(fn, ...)
  local ok, message = pcall(fn, ...)
  assert.is_false(ok)
  return tostring(message)
end

before_each(function() core.seed(1) end)

describe("layers", function()
  it("Linear is x W' + b", function()
    local layer = nn.Linear(3, 2)
    layer:load_state_dict { weight = core.tensor { { 1, 2, 3 }, { 4, 5, 6 } }, bias = core.tensor { 0.5, -0.5 } }
    assert.are.same({ { 6.5, 14.5 } }, layer(core.ones(1, 3)):totable())
  end)

  it("weights begin uniform in 1/sqrt(fan_in), drawn in logical order", function()
    local conv = nn.Conv2d(8, 16, 3, { groups = 2 })
    local bound = 1 / math.sqrt(4 * 9)
    assert.are.equal("16,4,3,3", shape_of(conv.weight))
    local most = conv.weight:abs():amax():item()
    assert.is_true(most <= bound and most > 0.9 * bound)
    core.seed(1)
    local plain = core.rand(16, 4, 3, 3) * (2 * bound) - bound
    assert.is_true(distance(conv.weight, plain) < 1e-6)
  end)

  it("Conv2d, Conv1d and their transposes give the expected extents", function()
    assert.are.equal("2,5,4,4", shape_of(nn.Conv2d(3, 5, 3, { stride = 2, padding = 1 })(core.randn(2, 3, 8, 8))))
    assert.are.equal("2,5,8", shape_of(nn.Conv1d(3, 5, 5, { padding = 2, bias = false })(core.randn(2, 3, 8))))
    assert.are.equal("2,5,16,16", shape_of(nn.ConvTranspose2d(4, 5, 2, { stride = 2 })(core.randn(2, 4, 8, 8))))
    assert.are.equal("2,5,16", shape_of(nn.ConvTranspose1d(4, 5, 4, { stride = 2, padding = 1 })(core.randn(2, 4, 8))))
  end)

  it("GroupNorm with silu equals the norm followed by silu", function()
    local norm, fused = nn.GroupNorm(2, 6), nn.GroupNorm(2, 6, { activation = "silu" })
    local x = core.randn(3, 6, 5, 5)
    assert.is_true(distance(fused(x), F.silu(norm(x))) < 1e-5)
    near(0, norm(x):mean():item(), 1e-5)
    near(1, norm(x):square():mean():item(), 1e-3)
  end)

  it("a convolution with a norm before it is one of the normalised, and keeps less for backward", function()
    local norm, conv = nn.GroupNorm(8, 48, { activation = "silu" }), nn.Conv2d(48, 64, 3, { padding = 1 })
    local x, more = core.randn(2, 32, 16, 16):requires_grad_(), core.randn(2, 16, 16, 16)
    local function live(f)
      collectgarbage()
      local before = core.memory().live
      local y = f()
      collectgarbage()
      return y, core.memory().live - before
    end
    local expected, both = live(function() return conv(norm(x, more)) end)
    local y, one = live(function() return conv(x, nil, more, norm) end)
    assert.is_true((y - expected):norm():item() < 2e-6 * expected:norm():item())
    assert.is_true(both - one >= 4 * 2 * 48 * 16 * 16, both - one .. " bytes less")
    local grouped = nn.Conv2d(48, 64, 3, { groups = 2 })
    assert.matches("a norm before it needs groups 1: got 2", error_of(grouped, x, nil, more, norm))
  end)

  it("Embedding counts from 1", function()
    local layer = nn.Embedding(4, 2)
    local rows = layer(core.tensor({ 1, 4 }, { dtype = "i64" }))
    assert.are.same(layer.weight:totable()[1], rows:totable()[1])
    assert.are.same(layer.weight:totable()[4], rows:totable()[2])
  end)

  it("Timesteps gives sines, then cosines, at frequencies from 1 to 1/10000", function()
    local row = nn.Timesteps(64)(core.tensor { 3 }):totable()[1]
    for _, i in ipairs { 0, 7, 31 } do
      local f = math.exp(-math.log(10000) * i / 32)
      near(math.sin(3 * f), row[i + 1], 1e-6)
      near(math.cos(3 * f), row[33 + i], 1e-6)
    end
    local flipped = nn.Timesteps(64, { flip_sin_to_cos = true })(core.tensor { 3 }):totable()[1]
    near(row[1], flipped[33], 0)
  end)

  it("attention equals its formula, fused or not", function()
    local fused, apart = nn.Attention(6, { heads = 2, fuse_qkv = true }), nn.Attention(6, { heads = 2 })
    fused:load_state_dict(apart:state_dict()) -- three matrices become one
    local x = core.randn(2, 5, 6)
    local y = apart(x)
    assert.is_true(distance(fused(x), y) < 1e-5)
    local joined = {}
    for head = 1, 2 do
      local q, k, v = apart.to_q(x), apart.to_k(x), apart.to_v(x)
      local first = 3 * head - 2
      q, k, v = q:narrow(3, first, 3), k:narrow(3, first, 3), v:narrow(3, first, 3)
      joined[head] = F.softmax(q:matmul(k:transpose(2, 3)) / math.sqrt(3), 3):matmul(v)
    end
    assert.is_true(distance(y, apart.to_out[1](core.op.cat(joined, 3))) < 1e-5)
  end)

  it("dropout works while training only, and keeps the mean", function()
    local layer, x = nn.Dropout(0.25), core.ones(100, 100)
    local y = layer(x)
    near(0.25, y:eq(0):to "f32":mean():item(), 0.02)
    near(1, y:mean():item(), 0.03)
    assert.is_true(layer:eval()(x):equal(x))
  end)
end)

describe("functional", function()
  it("cross_entropy equals the mean of -log p", function()
    local x = core.randn(3, 4)
    local logp = F.log_softmax(x, 2):totable()
    local target = core.tensor({ 1, 4, 2 }, { dtype = "i64" })
    near(-(logp[1][1] + logp[2][4] + logp[3][2]) / 3, F.cross_entropy(x, target):item())
    near(-(logp[1][1] + logp[3][2]) / 2,
      F.cross_entropy(x, target, { weight = core.tensor { 1, 0, 1 } }):item())
    local spread = F.cross_entropy(core.randn(2, 4, 3), core.ones(2, 3):to "i64", { reduction = "none" })
    assert.are.equal("2,3", shape_of(spread))
  end)

  it("pixel_unshuffle undoes pixel_shuffle and moves no value", function()
    local x = core.randn(2, 8, 3, 5)
    local y = F.pixel_shuffle(x, 2)
    assert.are.equal("2,2,6,10", shape_of(y))
    assert.is_true(F.pixel_unshuffle(y, 2):equal(x))
    assert.are.equal(x:get(1, 2, 1, 1), y:get(1, 1, 1, 2)) -- PyTorch's order of channels
  end)

  it("losses", function()
    local a, b = core.tensor { 0, 0.5, 3 }, core.tensor { 0, 0, 0 }
    near((0.25 + 9) / 3, F.mse_loss(a, b):item())
    near(9.25, F.mse_loss(a, b, { reduction = "sum" }):item())
    near(3.5 / 3, F.l1_loss(a, b):item())
    near((0.125 + 2.5) / 3, F.huber_loss(a, b):item())
    assert.matches("shapes differ", error_of(F.l1_loss, a, core.zeros(2)))
  end)

  it("batch_norm uses the batch while training and moves the running statistics", function()
    local x, mean, var = core.randn(16, 3, 4, 4) * 2 + 1, core.zeros(3), core.ones(3)
    local y = F.batch_norm(x, mean, var, nil, nil, { training = true })
    near(0, y:mean():item(), 1e-4)
    near(0.1 * x:mean({ 1, 3, 4 }):get(2), mean:get(2), 1e-5)
    near(0.9 + 0.1 * x:var({ 1, 3, 4 }):get(2), var:get(2), 1e-4)
    assert.is_true(distance(F.batch_norm(x, core.zeros(3), core.ones(3)), x) < 1e-4)
  end)
end)

describe("Module", function()
  local Net = class("Net", nn.Module)
  function Net:init()
    self.second = nn.Linear(2, 2)
    self.scale = nn.Parameter(core.ones(2))
    self.first = nn.Linear(2, 2, { bias = false })
    self.layers = { nn.Linear(2, 3), F.relu, nn.Linear(3, 2) }
    self:register_buffer("steps", core.zeros(1))
    self:register_buffer("cache", core.zeros(1), { persistent = false })
  end
  function Net:forward(x) return self.second(x) * self.scale end

  it("lists parameters in the order of assignment, own ones first, lists from 0", function()
    local names = {}
    for name in Net():named_parameters() do names[#names + 1] = name end
    assert.are.same({ "scale", "second.weight", "second.bias", "first.weight", "layers.0.weight", "layers.0.bias",
      "layers.2.weight", "layers.2.bias" }, names)
  end)

  it("keeps buffers in the state, but not unsaved ones", function()
    local state = Net():state_dict()
    assert.is_not_nil(state.steps)
    assert.is_nil(state.cache)
    assert.are.equal(2, #Net():buffers())
  end)

  it("gives shared parameters once, but names both in the state", function()
    local net = nn.Module()
    net.a, net.b = nn.Linear(2, 2), nn.Linear(2, 2)
    net.b.weight = net.a.weight
    assert.are.equal(3, #net:parameters())
    assert.is_not_nil(net:state_dict()["b.weight"])
    local copy = net:clone()
    assert.are.equal(copy.a.weight, copy.b.weight)
  end)

  it("reports all differences of a state in one message and copies nothing then", function()
    local net = nn.Sequential(nn.Linear(2, 3), F.relu, nn.Linear(3, 1))
    local before = net[1].weight:detach():clone()
    local state = nn.Sequential(nn.Linear(2, 3), F.relu, nn.Linear(4, 1)):state_dict()
    state["0.bias"], state.extra = nil, core.zeros(1)
    local message = error_of(net.load_state_dict, net, state)
    assert.matches("1 missing: 0%.bias", message)
    assert.matches("1 not in the model: extra", message)
    assert.matches("2%.weight is %[1,4%], expected %[1,3%]", message)
    assert.is_true(net[1].weight:equal(before))
    state["2.weight"] = nil
    local result = net:load_state_dict(state, { strict = false })
    assert.are.same({ "0.bias", "2.weight" }, result.missing)
    assert.is_false(net[1].weight:equal(before))
  end)

  it("clones into tensors of its own, with the same results", function()
    local net = small_unet()
    local copy = net:clone()
    local x = core.randn(1, 3, 8, 8)
    assert.is_true(copy(x, 5):equal(net(x, 5)))
    core.no_grad(function() copy.conv_out.bias:copy_(9) end)
    assert.is_true(copy.conv_out.bias:get(1) ~= net.conv_out.bias:get(1))
  end)

  it("changes its type", function()
    local net = small_unet():to "f64"
    for _, p in net:named_parameters() do assert.are.equal("f64", p:dtype()) end
    assert.are.equal("f64", net(core.randn({ 1, 3, 8, 8 }, { dtype = "f64" }), 3):dtype())
  end)

  it("refuses a layer under the name of a method", function()
    local net = nn.Module()
    assert.matches("'train' is a method", error_of(function() net.train = nn.Linear(1, 1) end))
  end)

  it("names the layer's path in messages", function()
    local net = small_unet()
    net.down_blocks[2].resnets[1].conv2 = nn.Conv2d(5, 16, 3)
    assert.matches("unet%.down_blocks%[2%]%.resnets%[1%]%.conv2", error_of(net, core.randn(1, 3, 8, 8), 1))
  end)

  it("prints a summary with shapes and the sum of parameters", function()
    local text = nn.Sequential(nn.Linear(4, 8), F.relu, nn.Linear(8, 1)):summary { 2, 4 }
    assert.matches("0%s+Linear%s+%[2,8%]%s+40", text)
    assert.matches("49 parameters in 4 tensors", text)
    assert.matches("norm2%s+GroupNorm%s+64\n", nn.ResBlock(32, 32):summary { 1, 32, 4, 4 })
  end)

  it("names the nearest option", function()
    assert.matches("unknown option 'pading'%. did you mean 'padding'%?",
      error_of(nn.Conv2d, 1, 1, 3, { pading = 1 }))
  end)
end)

describe("UNet", function()
  it("enlarges signals as nearest neighbours and a convolution would", function()
    for _, case in ipairs { { 5, 4 }, { 3, 2 }, { 7, 2 }, { 3, 1 }, { 5, 3 } } do
      local kernel, factor = case[1], case[2]
      local net = nn.UNet { dims = 1, in_channels = 1, out_channels = 1, block_out_channels = { 8, 16 },
        layers_per_block = 1, norm_num_groups = 4, kernel_size = kernel, down = factor, down_kernel_size = factor }
      local up = net.up_blocks[1].upsamplers[1]
      local function run(layer)
        core.seed(2)
        local x = core.randn(2, 16, 6):requires_grad_()
        net:zero_grad()
        local y = layer(x)
        y:backward(y:detach() + 1)
        return { y, x:grad(), up.conv.weight:grad(), up.conv.bias:grad() }
      end
      local got = run(function(x) return up(x, { 6 * factor }) end)
      local want = run(function(x) return up.conv(F.interpolate(x, { size = { 6 * factor } })) end)
      for i = 1, 4 do
        assert.is_true(distance(got[i], want[i]) < 1e-6, kernel .. " " .. factor)
      end
    end
  end)

  it("is google/ddpm-cifar10-32 with the same options", function()
    local net = nn.UNet {
      block_out_channels = { 128, 256, 256, 256 }, layers_per_block = 2, num_attention_heads = 1, norm_eps = 1e-6,
      down_block_types = { "DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D" },
      up_block_types = { "UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D" }, downsample_padding = 0,
      freq_shift = 1,
    }
    assert.are.same({ 35746307, 328 }, { net:num_parameters() })
    local state = net:state_dict()
    assert.are.equal("512,128", shape_of(state["time_embedding.linear_1.weight"]))
    assert.are.equal("256,128,1,1", shape_of(state["down_blocks.1.resnets.0.conv_shortcut.weight"]))
    assert.are.equal("256,256", shape_of(state["up_blocks.2.attentions.2.to_out.0.weight"]))
    assert.are.equal("128,384,3,3", shape_of(state["up_blocks.3.resnets.0.conv1.weight"]))
    assert.is_not_nil(state["mid_block.attentions.0.group_norm.bias"])
    assert.is_not_nil(state["down_blocks.0.downsamplers.0.conv.weight"])
    assert.is_nil(state["up_blocks.3.upsamplers.0.conv.weight"])
  end)

  it("loads the names of older files", function()
    local net = small_unet()
    local state = net:state_dict()
    local prefix = "mid_block.attentions.0."
    local pairs_of_names = { { "to_q", "query" }, { "to_k", "key" }, { "to_v", "value" }, { "to_out.0", "proj_attn" } }
    for _, pair in ipairs(pairs_of_names) do
      for _, part in ipairs { ".weight", ".bias" } do
        state[prefix .. pair[2] .. part], state[prefix .. pair[1] .. part] = state[prefix .. pair[1] .. part], nil
      end
    end
    net:load_state_dict(state)
  end)

  it("gives every parameter a gradient", function()
    local net = small_unet { down_block_types = { "DownBlock2D", "AttnDownBlock2D" }, num_class_embeds = 3 }
    local x = core.randn(2, 3, 8, 8)
    F.mse_loss(net(x, core.tensor { 1, 500 }, { labels = core.tensor({ 1, 3 }, { dtype = "i64" }) }), x):backward()
    for name, p in net:named_parameters() do
      assert.is_not_nil(p:grad(), name)
      -- softmax does not change with a constant added to all keys' products
      assert.is_true(p:grad():abs():amax():item() > 0 or name:find "to_k.bias" ~= nil, name)
    end
  end)

  it("agrees with finite differences in f64", function()
    local net = small_unet():to "f64"
    local x = core.randn({ 1, 3, 6, 6 }, { dtype = "f64" })
    local function loss() return net(x, 7):square():mean() end
    loss():backward()
    for _, name in ipairs {
      "conv_in.weight", "down_blocks.1.resnets.0.conv1.weight", "mid_block.attentions.0.to_q.weight",
      "up_blocks.0.resnets.1.time_emb_proj.weight", "time_embedding.linear_1.weight", "conv_norm_out.weight",
    } do
      local p = net:state_dict()[name]
      local grad
      for n, q in net:named_parameters() do if n == name then grad = q:grad() end end
      local step = 1e-5
      local at = p:dim() == 1 and { 2 } or p:dim() == 2 and { 2, 1 } or { 2, 1, 2, 2 }
      local before = p:get(table.unpack(at))
      local function with(value)
        local _ <close> = core.no_grad()
        local arguments = table.move(at, 1, #at, 1, {})
        arguments[#at + 1] = value
        p:set(table.unpack(arguments))
        return loss():item()
      end
      local numeric = (with(before + step) - with(before - step)) / (2 * step)
      with(before)
      near(numeric, grad:get(table.unpack(at)), 1e-7 + 1e-5 * math.abs(numeric))
    end
  end)

  it("takes odd extents, signals and other factors", function()
    assert.are.equal("1,3,7,9", shape_of(small_unet()(core.randn(1, 3, 7, 9), 1)))
    local net = small_unet { dims = 1, in_channels = 1, out_channels = 2, kernel_size = 5, down = 4 }
    assert.are.equal("2,2,64", shape_of(net(core.randn(2, 1, 64), 1)))
  end)

  it("tells several times apart and checks their number", function()
    local net = small_unet { time_inputs = 2 }
    local x = core.randn(1, 3, 8, 8)
    assert.is_true(distance(net(x, { 100, 3 }), net(x, { 3, 100 })) > 1e-4)
    assert.matches("number of times is wrong: got 1, expected 2", error_of(net, x, 3))
  end)

  it("joins a context along the channels", function()
    local net = small_unet { in_channels = 5 }
    local x, c = core.randn(2, 3, 8, 8), core.randn(2, 2, 8, 8)
    assert.is_true(net(x, 4, { context = c }):equal(net(core.op.cat({ x, c }, 2), 4)))
  end)

  it("gives zeros at first with zero_init, and the same weights from the same seed", function()
    local x = core.randn(1, 3, 8, 8)
    assert.are.equal(0, small_unet { zero_init = true }(x, 3):abs():amax():item())
    core.seed(5)
    local a = small_unet()
    core.seed(5)
    assert.is_true(a(x, 3):equal(small_unet()(x, 3)))
  end)

  it("has a scale-and-shift form and other activations", function()
    local x = core.randn(1, 3, 8, 8)
    assert.are.equal("1,3,8,8", shape_of(small_unet { resnet_time_scale_shift = "scale_shift" }(x, 3)))
    assert.are.equal("1,3,8,8", shape_of(small_unet { act_fn = "gelu", dropout = 0.1 }(x, 3)))
    assert.are.equal("1,3,8,8", shape_of(small_unet { time_embedding_type = "fourier" }(x, 0.3)))
  end)

  it("refuses wrong options", function()
    assert.matches("down_block_types has 1 entries, expected 2",
      error_of(small_unet, { down_block_types = { "DownBlock2D" } }))
    assert.matches("did you mean 'AttnDownBlock'",
      error_of(small_unet, { down_block_types = { "AtnDownBlock2D", "DownBlock2D" } }))
    assert.matches("expected odd", error_of(small_unet, { kernel_size = 4 }))
  end)
end)

describe("hd.accuracy", function()
  local function convolved(x, weight) return F.conv2d(x, weight, nil, { padding = 1 }) end

  it("strict brings convolutions nearer to exact sums", function()
    local x, weight = core.randn { 2, 64, 16, 16 }:channels_last(), core.randn { 64, 64, 3, 3 }
    local exact = convolved(x:to "f64", weight:to "f64"):to "f32"
    assert.are.equal("fast", core.accuracy())
    local fast = distance(convolved(x, weight), exact)
    assert.are.equal("strict", core.accuracy "strict")
    local strict = distance(convolved(x, weight), exact)
    assert.are.equal("strict", core.versions().accuracy)
    assert.are.equal("fast", core.accuracy "fast")
    assert.is_true(strict < 0.7 * fast, ("errors %g and %g"):format(strict, fast))
    assert.matches("accuracy: unknown accuracy: got 'exact', expected 'fast' or 'strict'",
      error_of(core.accuracy, "exact"))
  end)
end)

describe("Transformer", function()
  it("gives logits for every position, of shorter texts too", function()
    local net = nn.Transformer { vocab_size = 10, max_length = 8, dim = 16, depth = 2, heads = 2, time_dim = 8 }
    assert.are.equal("2,5,10", shape_of(net(core.randint(1, 10, { 2, 5 }), core.tensor { 1, 2 })))
    assert.matches("text is too long: got 9 tokens", error_of(net, core.randint(1, 10, { 1, 9 }), 1))
  end)

  it("sees neighbours by a convolution", function()
    local net = nn.Transformer { vocab_size = 9, max_length = 8, dim = 16, depth = 1, time_dim = 8, conv_kernel = 3 }
    local conv = net.blocks[1].conv
    assert.are.same({ 16, 1, 3 }, conv.weight:shape())
    local x = core.randint(1, 9, { 2, 8 })
    net(x, 1):square():sum():backward()
    assert.is_true(conv.weight:grad():abs():amin():item() > 0)
    assert.matches("conv_kernel is wrong: got 4", error_of(nn.TransformerBlock, 16, { conv_kernel = 4 }))
  end)

  it("learns to copy", function()
    local net = nn.Transformer { vocab_size = 6, max_length = 4, dim = 16, depth = 1, heads = 2, time_dim = 8 }
    local opt = require "hd.optim".AdamW(net:parameters(), { lr = 1e-2 })
    local first, last
    for _ = 1, 40 do
      local ids = core.randint(1, 6, { 8, 4 })
      local loss = F.cross_entropy(net(ids, 1):reshape(-1, 6), ids:reshape(-1))
      opt:zero_grad()
      loss:backward()
      opt:step()
      first, last = first or loss:item(), loss:item()
    end
    assert.is_true(last < 0.3 * first, ("loss %g to %g"):format(first, last))
  end)
end)
