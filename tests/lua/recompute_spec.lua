-- tests/lua/recompute_spec.lua: hd.checkpoint and gradient_checkpointing: the same bits for less memory.

local hd = require "hd"
local nn, F = hd.nn, hd.nn.functional

local function message(fn, ...)
  local ok, text = pcall(fn, ...)
  assert.is_false(ok)
  return tostring(text)
end

-- The message of an error, which names this file.
local function misuse(fn, ...)
  local text = message(fn, ...)
  assert.matches("^tests/lua/recompute_spec%.lua:%d+: ", text)
  return text
end

local function small_unet(opts)
  hd.seed(1)
  return nn.UNet { block_out_channels = { 8, 16 }, layers_per_block = 1, norm_num_groups = 4, dropout = 0.2,
    down_block_types = { "DownBlock2D", "AttnDownBlock2D" }, gradient_checkpointing = opts and opts.on }
end

-- Loss, gradients of input and parameters, and the next random number, of one step of net called through `call`.
local function step_of(net, x, call)
  local results = {}
  net:zero_grad()
  x = x:clone():requires_grad_()
  hd.seed(7)
  local loss = call(x):square():mean()
  loss:backward()
  results[1], results[2], results[3] = loss:detach(), x:grad(), hd.rand(1)
  for _, p in ipairs(net:parameters()) do results[#results + 1] = p:grad():clone() end
  return results
end

local function assert_same_bits(expected, got)
  assert.are.equal(#expected, #got)
  for i, e in ipairs(expected) do assert.is_true(e:equal(got[i]), "result " .. i .. " differs") end
end

local images, times = hd.randn(2, 3, 10, 12, { rng = hd.rng(3) }), hd.tensor { 3, 500 }

describe("a checkpoint", function()
  it("has the bits of the plain call: loss, gradients and random numbers", function()
    local net = small_unet()
    local plain = step_of(net, images, function(x) return net(x, times) end)
    assert_same_bits(plain, step_of(net, images, function(x) return hd.checkpoint(net, x, times) end))
    net:enable_gradient_checkpointing()
    assert_same_bits(plain, step_of(net, images, function(x) return net(x, times) end))
    assert_same_bits(plain, step_of(net, images, function(x) return hd.checkpoint(net, x, times) end))
    net:disable_gradient_checkpointing()
    assert.is_falsy(net.gradient_checkpointing)
  end)

  it("nests three deep, with uses of the input on every level", function()
    local net = small_unet()
    local function inner(x) return net(x, times), x * 3 end
    local function middle(x)
      local y, z = hd.checkpoint(inner, x)
      return y * z + x
    end
    local function outer(x) return hd.checkpoint(middle, x):tanh() - x end
    local function plain(x)
      local y, z = inner(x)
      return (y * z + x):tanh() - x
    end
    assert_same_bits(step_of(net, images, plain),
      step_of(net, images, function(x) return hd.checkpoint(outer, x) end))
  end)

  it("agrees with finite differences", function()
    local w = hd.randn(4, 4, { dtype = "f64" }):requires_grad_()
    local x = hd.randn(3, 4, { dtype = "f64" }):requires_grad_()
    local function body(a, b)
      local h = a:matmul(b):tanh()
      return h:softmax(2), h:exp():add_(a)
    end
    assert(hd.gradcheck(function(a, b)
      local y, z = hd.checkpoint(body, a, b)
      return y * z + a
    end, { x, w }))
  end)

  it("serves transformers", function()
    hd.seed(1)
    local net = nn.Transformer { vocab_size = 7, max_length = 5, dim = 8, depth = 2, heads = 2, dropout = 0.1 }
    local ids = hd.tensor({ { 1, 5, 7 }, { 2, 2, 4 } }, { dtype = "i64" })
    local function call(x) return net(ids, 3) * x end
    local plain = step_of(net, hd.ones(1), call)
    net:enable_gradient_checkpointing()
    assert_same_bits(plain, step_of(net, hd.ones(1), call))
  end)

  it("runs its function twice, as far as backward needs, and once without gradients", function()
    local begun, ended = 0, 0
    local w = hd.randn(3, 3):requires_grad_()
    local function body(x, n)
      begun = begun + 1
      local y = x:exp():matmul(w) + n
      ended = ended + 1
      return y, n, "text", nil
    end
    local y, n, text, nothing = hd.checkpoint(body, hd.ones(2, 3), 5)
    assert.are.same({ 5, "text" }, { n, text, nothing })
    y:sum():backward()
    assert.are.same({ 2, 1 }, { begun, ended })
    hd.no_grad(hd.checkpoint, body, hd.ones(2, 3), 5)
    assert.are.same({ 3, 2 }, { begun, ended })
    hd.checkpoint(function(x) begun = begun + x end, 1)
    assert.are.equal(4, begun)
  end)

  it("can be swept part by part", function()
    local x = hd.randn(3)
    local again = x:clone():requires_grad_()
    x:requires_grad_()
    local function body(a) return a:exp(), a:sin() end
    local y, z = hd.checkpoint(body, x)
    local p, q = body(again)
    y:sum():backward()
    z:sum():backward()
    p:sum():backward()
    q:sum():backward()
    assert.is_true(x:grad():equal(again:grad()))
    assert.matches("swept before", misuse(function() y:sum():backward() end))
  end)

  it("keeps inputs that the script releases", function()
    local w = hd.randn(3):requires_grad_()
    local x = w * 2
    local y = hd.checkpoint(function(a) return a:exp():square() end, x)
    x:release()
    y:sum():backward()
    assert.is_true((w:grad() - (w:detach() * 4):exp() * 4):abs():max():item() < 1e-3)
  end)

  it("is recorded again under no_grad around backward", function()
    local x = hd.randn(3):requires_grad_()
    local loss = hd.checkpoint(function(a) return a:exp():square():sum() end, x)
    hd.no_grad(loss.backward, loss)
    assert.is_true(x:grad():equal((x:detach():exp() * 2) * x:detach():exp()))
  end)
end)

describe("a checkpoint refuses", function()
  local w = hd.randn(3):requires_grad_()
  local function fine()
    w:set_grad(nil)
    local y = hd.checkpoint(function(x) return x:exp():square() end, w)
    y:sum():backward()
    assert.is_true((w:grad() - (w:detach() * 2):exp() * 2):abs():max():item() < 1e-3)
  end
  after_each(fine) -- whatever failed, the next one works

  it("what is no function", function()
    assert.matches("checkpoint: argument 1: wrong type: got number, expected a function", misuse(hd.checkpoint, 3))
    assert.matches("checkpoint: this tensor was released", misuse(function()
      local x = hd.ones(2)
      x:release()
      hd.checkpoint(F.relu, x)
    end))
  end)

  it("nothing of an error in the first run, or in the second", function()
    local value = { "mine" }
    assert.are.equal(value, select(2, pcall(hd.checkpoint, function(x) error(value, x:exp():numel()) end, w)))
    local runs = 0
    local y = hd.checkpoint(function(x)
      runs = runs + 1
      local z = x:exp()
      if runs == 2 then error(value) end
      return z:square()
    end, w)
    assert.are.equal(value, select(2, pcall(y.backward, y, hd.ones(3))))
    runs = 2
    local z = hd.checkpoint(function(x) return runs == 2 and x:exp():square() or x:view(5) end, w)
    runs = 3
    assert.matches("view: ", misuse(function() z:sum():backward() end))
  end)

  it("changes in place: of an argument, then or later, and of a parameter", function()
    local function changed(x) return x:mul_(2):exp():square() end
    assert.matches("checkpoint: the function changed its argument in place",
      misuse(hd.checkpoint, changed, (w * 1)))
    local x, p = w * 1, hd.randn(3):requires_grad_()
    local y = hd.checkpoint(function(a) return a:exp():square() end, x)
    x:mul_(2)
    assert.matches("an argument of hd.checkpoint was changed in place", misuse(function() y:sum():backward() end))
    local z = hd.checkpoint(function(a) return (a * p):exp() end, w)
    hd.no_grad(function() p:mul_(2) end)
    assert.matches("a tensor that mul needs for its gradient was changed in place after hd.checkpoint",
      misuse(function() z:sum():backward() end))
  end)

  it("a second run that differs", function()
    local first, longer = true, hd.ones(4):requires_grad_()
    local function other(good, bad)
      first = true
      local y = hd.checkpoint(function(x)
        local z = (first and good or bad)(x)
        return z:square()
      end, w)
      first = false
      return misuse(function() y:sum():backward() end)
    end
    local function exp(x) return x:exp() end
    assert.matches("did something else when backward ran it again: got sin, expected exp",
      other(exp, function(x) return x:sin() end))
    assert.matches("got exp, expected other shapes", other(exp, function() return longer:exp() end))
    assert.matches("got fewer operations", other(exp, function(x) return x:detach() end))
    assert.matches("got hd.checkpoint, expected exp", other(exp, function(x) return hd.checkpoint(exp, x) end))
    assert.matches("got exp, expected hd.checkpoint", other(function(x) return hd.checkpoint(exp, x) end, exp))
  end)

  it("backward and yields inside", function()
    assert.matches("backward: called inside hd.checkpoint", misuse(hd.checkpoint, function(x)
      x:sum():backward()
    end, w))
    local body = coroutine.wrap(function() return hd.checkpoint(function(x) coroutine.yield(x) end, w) end)
    assert.matches("attempt to yield across a C%-call boundary", message(body))
  end)

  it("what its function made and kept elsewhere", function()
    local stolen
    hd.checkpoint(function(x)
      stolen = x:exp()
      return stolen:square()
    end, w)
    assert.matches("this tensor was released at the end of the scope opened at tests/lua/recompute_spec",
      misuse(function() return stolen:sum() end))
  end)
end)

describe("checkpoints of a network", function()
  local x = hd.randn(2, 16, 32, 32)
  local function chain(n)
    local layers = {}
    for i = 1, n do layers[i] = nn.ResBlock(16, 16, { norm_num_groups = 4 }) end
    return layers
  end

  -- Bytes that were live at the most, beyond those at the start.
  local function peak_of(layers, call)
    collectgarbage()
    hd.reset_peak_memory()
    local before, h = hd.memory().live, x
    for _, layer in ipairs(layers) do h = call(layer, h) end
    h:sum():backward()
    return hd.memory().peak - before
  end

  it("need less than three quarters of the memory", function()
    local layers = chain(8)
    local function plain(layer, h) return layer(h) end
    peak_of(layers, plain) -- gradients
    local with, without = peak_of(layers, hd.checkpoint), peak_of(layers, plain)
    assert.is_true(with < 0.75 * without, ("%d of %d bytes"):format(with, without))
  end)

  it("leave nothing behind, swept or not", function()
    local layers, functions = chain(1), setmetatable({}, { __mode = "k" })
    local function round(i)
      local function body(h) return layers[1](h) end
      functions[body] = true
      local y = hd.checkpoint(function(h) return hd.checkpoint(body, h) + h end, x)
      if i % 2 == 0 then y:sum():backward() end
    end
    local live
    for i = 1, 12 do
      round(i)
      collectgarbage()
      if i == 4 then live = hd.memory().live end
    end
    collectgarbage()
    assert.is_true(hd.memory().live <= live)
    assert.is_nil(next(functions))
  end)

  it("are shown by an example", function()
    local program = assert(os.getenv "HDLUA", "HDLUA is not set: run by tests/run.sh")
    local pipe = assert(io.popen(program .. " --view off examples/less_memory.lua --steps 1 --size 16 --width 32"))
    local losses, peaks = {}, {}
    for loss, mib in pipe:read "a":gmatch "loss (%S+).-(%d+) MiB" do
      losses[#losses + 1], peaks[#peaks + 1] = loss, tonumber(mib)
    end
    pipe:close()
    assert.are.equal(4, #losses) -- the last two with activations in bf16
    assert.are.equal(losses[1], losses[2])
    assert.is_true(peaks[2] < peaks[1])
  end)
end)
