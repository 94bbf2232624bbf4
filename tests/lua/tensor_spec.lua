-- tests/lua/tensor_spec.lua: tensors as a user writes them: making, looking, moving, computing, gradients, scopes, and
-- the messages of misuse. Values of single operations are ops_spec.lua's.

local hd = require "hd"
local F = hd.nn.functional

local function numbers(...) return hd.arange(1, ...):to "f32" end
local x = numbers(6):view(2, 3)

-- The values of a tensor, against a nested table or a number.
local function same(expected, got) assert.are.same(expected, got:totable()) end

-- The message of an error, which names this file.
local function message(fn, ...)
  local ok, text = pcall(fn, ...)
  assert.is_false(ok)
  assert.matches("^tests/lua/tensor_spec%.lua:%d+: ", text)
  return text
end

describe("making tensors", function()
  it("takes extents as integers or one table, options last", function()
    assert.are.same({ 2, 3 }, hd.zeros(2, 3):shape())
    assert.are.same({ 2, 3 }, hd.zeros { 2.0, 3 }:shape())
    assert.are.equal("f64", hd.ones({ 2 }, { dtype = "float64" }):dtype())
    same({ 7, 7 }, hd.full({ 2 }, 7))
    same({ 7, 7 }, hd.full(2, 7))
    assert.are.same({}, hd.zeros():shape())
  end)

  it("takes nested tables, numbers and booleans", function()
    same({ { 1, 2 }, { 3, 4 } }, hd.tensor { { 1, 2 }, { 3, 4 } })
    assert.are.equal(3.0, hd.tensor(3):item())
    assert.are.equal("bool", hd.tensor({ true, false }):dtype())
    for _, dtype in ipairs { "f32", "f64", "i64", "i32", "u8", "bool" } do
      assert.are.equal(dtype, hd.tensor({ 1, 0 }, { dtype = dtype }):dtype())
    end
  end)

  it("counts in ranges", function()
    same({ 1, 2, 3 }, hd.arange(3))
    assert.are.equal("i64", hd.arange(3):dtype())
    same({ 0, 0.25, 0.5 }, hd.arange(0, 0.5, 0.25))
    same({ 0, 0.5, 1 }, hd.linspace(0, 1, 3))
    same({ { 1, 0, 0 }, { 0, 1, 0 } }, hd.eye(2, 3))
  end)

  it("draws numbers that depend on seed and place alone", function()
    local all, first = hd.randn(5, 3, { rng = hd.rng(5) }), hd.randn(2, 3, { rng = hd.rng(5) })
    assert.is_true(first:equal(all:narrow(1, 1, 2)))
    hd.seed(3)
    local once = hd.rand(4)
    hd.seed(3)
    assert.is_true(once:equal(hd.rand(4)))
  end)

  it("refuses what it does not know", function()
    assert.matches("zeros: unknown option 'dtyp'%. did you mean 'dtype'%?", message(hd.zeros, 2, { dtyp = "f64" }))
    assert.matches("tensor: options have the wrong type: got string", message(hd.tensor, { 1 }, "f64"))
    assert.matches("full: options have the wrong type", message(hd.full, { 2 }, 1, "f64"))
    assert.matches("zeros_like: options have the wrong type", message(hd.zeros_like, x, 3))
    assert.matches("rand: option 'rng' has the wrong type", message(hd.rand, 2, { rng = 3 }))
    assert.matches("zeros: not an integer: got 2.5", message(hd.zeros, 2.5))
    assert.matches("zeros: wrong type: got string, expected an integer", message(hd.zeros, { 2, "3" }))
    assert.matches("ragged table", message(hd.tensor, { { 1, 2 }, { 3 } }))
  end)
end)

describe("looking at tensors", function()
  it("tells shape, strides, type and values", function()
    assert.are.same({ 2, 3 }, x:shape())
    assert.are.same({ 3, 1 }, x:strides())
    assert.are.same({ 2, 3, 2, 6 }, { x:size(1), x:size(-1), x:dim(), x:numel() })
    assert.are.equal("integer", math.type(x:size(1)))
    assert.are.equal(6.0, x:get(-1, 3))
    assert.are.equal(2, #x)
    assert.matches("^f32 %[2,3%] min 1 mean 3%.5 max 6\n", tostring(x))
  end)

  it("compares values by equal and objects by ==", function()
    assert.is_true(x:equal(x:clone()))
    assert.is_false(x:equal(x + 1))
    assert.is_false(x:equal(x:to "f64"))
    assert.is_true(x == x) -- luacheck: ignore
    assert.is_false(x == x:clone())
  end)

  it("gives self from in-place methods", function()
    local y = x:clone()
    assert.are.equal(y, y:set(1, 2, 9))
    assert.are.equal(9.0, y:get(1, 2))
    assert.are.equal(y, y:add_(1))
    assert.are.equal(y, y:requires_grad_())
  end)

  it("says which argument is wrong", function()
    assert.matches("get: argument 2: wrong type: got string", message(function() return x:get(1, "a") end))
    assert.matches("index: out of range: got 4 for dimension 2, expected 1 to 3 of %[2,3%]", message(x.get, x, 1, 4))
    assert.matches("threads: wrong number: got 0", message(hd.threads, 0))
    assert.matches("item: not a single element: got %[2,3%]", message(x.item, x))
  end)
end)

describe("indexing", function()
  it("takes one, ranges and whole dimensions", function()
    same({ 4, 5, 6 }, x[2])
    assert.are.equal(6.0, x[2][3])
    assert.are.equal(6.0, x[-1][-1])
    same({ { 2, 3 } }, x[{ { 1, 1 }, { 2, 3 } }])
    same({ 2, 5 }, x[{ {}, 2 }])
    same({ { 2, 3 }, { 5, 6 } }, x[{ {}, { -2, -1 } }])
    assert.are.equal(6.0, x[{ 2, 3 }]:item())
  end)

  it("writes numbers and tensors", function()
    local y = hd.zeros(2, 3)
    y[1] = 5
    y[2] = hd.tensor { 1, 2, 3 }
    y[{ {}, { 2, 3 } }] = 0
    y[{ 2, 3 }] = 7
    same({ { 5, 0, 0 }, { 1, 0, 7 } }, y)
    local v = hd.zeros(3)
    v[-1] = 4
    same({ 0, 0, 4 }, v)
  end)

  it("ends in ipairs and raises beyond", function()
    local rows = {}
    for i, row in ipairs(x) do rows[i] = row:totable() end
    assert.are.same(x:totable(), rows)
    assert.is_nil(x[3])
    assert.matches("index: out of range: got 4, expected 1 to 2 of %[2,3%]", message(function() return x[4] end))
    assert.matches("index: out of range: got 0", message(function() return x[0] end))
    assert.matches("index: not an integer: got 1%.5", message(function() return x[1.5] end))
    assert.matches("index: too many entries: got 3 for %[2,3%]", message(function() return x[{ 1, 2, 3 }] end))
  end)
end)

describe("moving", function()
  it("splits and joins", function()
    local parts = x:chunk(2, 2)
    same({ { 1, 2 }, { 4, 5 } }, parts[1])
    same({ { 3 }, { 6 } }, parts[2])
    same({ { 2, 3 }, { 5, 6 } }, x:split({ 1, 2 }, 2)[2])
    assert.is_true(x:equal(hd.cat(x:split(1, 2), 2)))
    same({ { 1, 4 }, { 2, 5 }, { 3, 6 } }, hd.stack({ x[1], x[2] }, 2))
    assert.matches("split: size is wrong: got 0, expected at least 1", message(function() return x:split(0) end))
    assert.matches("chunk: n is wrong: got 0", message(function() return x:chunk(0) end))
    assert.matches("split: sizes add up to 2, expected 3", message(function() return x:split({ 1, 1 }, 2) end))
  end)

  it("repeats and fills", function()
    same({ { 1, 2, 1, 2 } }, hd.tensor { 1, 2 }:tile(1, 2))
    same({ { 1, 2, 3 }, { 0, 0, 0 } }, x:masked_fill(x:gt(3), 0))
    same({ { 0, 0, 0 }, { 4, 5, 6 } }, hd.where(x:gt(3), x, 0))
  end)

  it("has views where memory allows, and says so elsewhere", function()
    local y = x:clone()
    y:view(6)[1] = 9
    assert.are.equal(9.0, y:get(1, 1))
    assert.matches("hint: use x:reshape", message(function() return x:transpose(1, 2):view(6) end))
    same({ 1, 4, 2, 5, 3, 6 }, x:transpose(1, 2):reshape(-1))
  end)
end)

describe("computing", function()
  it("has Lua's operators, with numbers on either side", function()
    same({ -1, -2 }, -hd.tensor { 1, 2 })
    same({ 0, -1 }, 1 - hd.tensor { 1, 2 })
    same({ 2, 4 }, 2 ^ hd.tensor { 1, 2 })
    same({ 1, 1 }, hd.tensor { 3, 4 } // 3)
    same({ 0, 1 }, hd.tensor { 3, 4 } % 3)
    same({ { 2, 4, 6 }, { 5, 7, 9 } }, x + hd.tensor { 1, 2, 3 })
    assert.matches("shapes do not broadcast: got %[2,3%] and %[4%]", message(function() return x + hd.ones(4) end))
  end)

  it("gives positions from 1 with max and min", function()
    local values, positions = x:max(2)
    same({ 3, 6 }, values)
    same({ 3, 3 }, positions)
    same({ { 1 }, { 4 } }, (x:min(2, true)))
    assert.are.equal(6, x:argmax():item())
  end)

  it("divides by n - 1 in var and std unless told", function()
    assert.are.equal(3.5, x:var():item())
    assert.are.near(math.sqrt(3.5), x:std():item(), 1e-6)
    assert.are.near(math.sqrt(2 / 3), x:std(2, { unbiased = false }):get(1), 1e-6)
  end)
end)

describe("gradients", function()
  it("add up in one object until they are dropped", function()
    local a = hd.tensor({ 1, 2 }, { requires_grad = true })
    ;(a * a):sum():backward()
    local g = a:grad()
    same({ 2, 4 }, g)
    ;(a * 3):backward(hd.tensor { 1, 1 })
    same({ 5, 7 }, a:grad())
    assert.are.equal(g, a:grad())
    assert.is_false(a:detach():requires_grad())
  end)

  it("share nothing with the one that backward is given", function()
    local functions = {
      function(v) return v end, function(v) return v + v end, function(v) return v:exp() end,
      function(v) return v:view(4):view(2, 2) end, function(v) return v:relu():transpose(1, 2) end,
    }
    for _, f in ipairs(functions) do
      local a, dy = hd.tensor({ { 0, 0 }, { 0, 0 } }, { requires_grad = true }), hd.tensor { { 1, 2 }, { 3, 4 } }
      f(a):backward(dy)
      hd.no_grad(function() a:grad():add_(5) end)
      same({ { 1, 2 }, { 3, 4 } }, dy)
    end
  end)

  it("are not recorded in hd.no_grad, in both its forms", function()
    local a = hd.ones(2):requires_grad_()
    local y, z = hd.no_grad(function() return a * 2, 5 end)
    assert.is_false(y:requires_grad())
    assert.are.equal(5, z)
    do
      local _ <close> = hd.no_grad()
      assert.is_false((a * 2):requires_grad())
    end
    pcall(hd.no_grad, function() error "left by an error" end)
    assert.is_true((a * 2):requires_grad())
  end)

  it("say why there are none", function()
    local a = hd.ones(2):requires_grad_()
    assert.matches("hint: reduce it first", message(function() (a * 2):backward() end))
    assert.matches("nothing was recorded", message(function() hd.ones(1):backward() end))
    local y = (a * 2):sum()
    y:backward()
    assert.matches("has been swept before", message(function() y:backward() end))
    assert.matches("in%-place change of a leaf", message(function() a:add_(1) end))
  end)

  -- A norm's rule adds what its input has got from elsewhere, in whatever memory order that lies.
  it("add up at the input of a norm", function()
    local others = {
      function(v) return v end, function(v) return v:transpose(1, 2):contiguous():transpose(1, 2) end,
      function(v) return hd.cat({ v, v * 2 }, 2):narrow(2, 2, v:size(2)) end,
      function(v) return v:sum(1, true):expand(v:shape()) end,
      function(v) return v:mean() end, function(v) return v * v end,
    }
    for _, shape in ipairs { { 2, 4, 3, 3 }, { 3, 4, 5 }, { 3, 12 }, { 2, 4, 1, 3 } } do
      local norms = {
        function(v) return F.group_norm(v, 2, nil, nil, { activation = "silu" }) end,
        function(v) return F.layer_norm(v, { shape[#shape] }) end, function(v) return F.group_norm(v * 3, 1) end,
        function(v) return F.group_norm(v, 1, nil, nil, v):narrow(2, 3, shape[2]) end,
        function(v)
          return F.group_norm(v, 2, nil, nil, v:narrow(2, 1, 2), { activation = "silu" }):narrow(2, 2, shape[2])
        end,
      }
      for i, other in ipairs(others) do
        for k, norm in ipairs(norms) do
          local at = hd.randn(shape, { dtype = "f64" }):requires_grad_()
          local function f(v)
            v = v * 1.5
            local y = norm(v)
            return y * y + other(v)
          end
          local ok, text = hd.gradcheck(f, { at })
          assert(ok, ("other %d, norm %d, %dD: %s"):format(i, k, #shape, text))
          local a, b = at:detach():requires_grad_(), at:detach():to "f32":requires_grad_()
          f(a):sum():backward()
          f(b):sum():backward()
          local far = (a:grad():to "f32" - b:grad()):abs():max():item() / a:grad():abs():max():item()
          assert(far < 1e-5, ("other %d, norm %d, %dD: %g"):format(i, k, #shape, far))
        end
      end
    end
  end)

  it("agree with differences, which hd.gradcheck takes in f64 alone", function()
    local a = hd.randn(2, 3, { dtype = "f64", requires_grad = true })
    assert.is_true(hd.gradcheck(function(v) return v[{ {}, 2 }] * v:std(2) end, { a }))
    local ok, text = hd.gradcheck(function(v) return v * v:detach() end, { a })
    assert.is_false(ok)
    assert.matches("input 1, element 1", text)
    assert.matches("input 1 is f32, expected f64", message(hd.gradcheck, F.relu, { hd.ones(1):requires_grad_() }))
  end)
end)

describe("letting go", function()
  it("happens at the end of a scope, but for what is kept", function()
    local kept, lost, inner
    do
      local scope <close> = hd.scope()
      kept, lost = scope:keep(x + 1), x + 2
      do
        local _ <close> = hd.scope()
        inner = x + 3
      end
      assert.matches("released at the end of the scope opened at tests/lua/tensor_spec.lua:%d+",
        message(function() return inner + 1 end))
      assert.are.equal(3.0, lost:get(1, 1))
    end
    assert.are.equal(2.0, kept:get(1, 1))
    assert.matches("released at the end of the scope", message(function() return lost + 1 end))
  end)

  it("happens at once by release", function()
    local y = x + 1
    y:release()
    y:release()
    assert.matches("this tensor was released", message(function() return y + 1 end))
  end)
end)

describe("functional", function()
  it("normalises a batch as its definition says, and keeps running statistics", function()
    local a = hd.randn(4, 3, 5, { dtype = "f64" })
    local weight, bias = hd.randn(3, { dtype = "f64" }), hd.randn(3, { dtype = "f64" })
    local mean, var = hd.zeros(3, { dtype = "f64" }), hd.ones(3, { dtype = "f64" })
    local y = F.batch_norm(a, mean, var, weight, bias, { training = true, momentum = 0.25 })
    for c = 1, 3 do
      local plane = a[{ {}, c }]
      local m, v = plane:mean():item(), plane:var({ 1, 2 }, { unbiased = false }):item()
      local expected = (plane - m) / math.sqrt(v + 1e-5) * weight[c] + bias[c]
      assert.is_true((y[{ {}, c }] - expected):abs():max():item() < 1e-12)
      assert.are.near(0.25 * m, mean[c], 1e-12)
      assert.are.near(0.75 + 0.25 * v * 20 / 19, var[c], 1e-12)
    end
    local still = F.batch_norm(a, mean, var)
    assert.are.near((a:get(1, 2, 3) - mean[2]) / math.sqrt(var[2] + 1e-5), still:get(1, 2, 3), 1e-12)
  end)

  it("shuffles pixels there and back", function()
    local a = numbers(16):view(1, 4, 2, 2)
    assert.is_true(a:equal(F.pixel_unshuffle(F.pixel_shuffle(a, 2), 2)))
    same({ { { { 1, 2 }, { 3, 4 } } } }, F.pixel_shuffle(numbers(4):view(1, 4, 1, 1), 2))
    assert.matches("pixel_shuffle: r is wrong: got 0", message(F.pixel_shuffle, a, 0))
    assert.matches("pixel_shuffle: r is wrong: got 4294967296", message(F.pixel_shuffle, a, 1 << 32))
    assert.matches("dropout: .*got", message(F.dropout))
    assert.matches("gradcheck: the result of fn .*got", message(hd.gradcheck, function() return 1 end, { a }))
    assert.matches("pixel_unshuffle: r is wrong: got 1.5", message(F.pixel_unshuffle, a, 1.5))
  end)

  it("has losses with PyTorch's values", function()
    local a, b = hd.tensor { 0, 0 }, hd.tensor { 1, 3 }
    assert.are.equal(5.0, F.mse_loss(a, b):item())
    assert.are.equal(2.0, F.l1_loss(a, b):item())
    assert.are.equal(1.5, F.huber_loss(a, b):item())
    same({ 1, 9 }, F.mse_loss(a, b, { reduction = "none" }))
    local classes = hd.tensor({ 1, 4 }, { dtype = "i64" })
    assert.are.near(math.log(4), F.cross_entropy(hd.zeros(2, 4), classes):item(), 1e-6)
    assert.matches("cross_entropy: target is f32, expected whole numbers", message(F.cross_entropy, hd.zeros(2, 4), a))
  end)

  it("drops values and scales the rest while training", function()
    local y = F.dropout(hd.ones(1000), { p = 0.5, rng = hd.rng(1) })
    assert.are.equal(2.0, y:max():item())
    assert.are.near(0.5, y:eq(0):to("f32"):mean():item(), 0.1)
    assert.is_true(F.dropout(x, { training = false }):equal(x))
  end)
end)
