-- Every op of runtime/ops/op_list.def against its samples (tests/ops/samples.lua), each tensor in three memory layouts:
-- values and gradients of cpu agree with those of ref in f32 and f64, f64 gradients agree with finite differences,
-- methods and in-place forms do the same, inputs stay as they were, and wrong calls say what is wrong.

local hd = require "hd"
local core = require "hd.core"
local samples = dofile "tests/ops/samples.lua"

local build, call, is_float = samples.build, samples.call, samples.is_float

local LAYOUTS = { "row", "last", "view" }
local FORWARD, GRADIENT = 1e-6, 2e-6 -- relative L2 distances between cpu and ref in f32

-- Tensors from descriptions ---------------------------------------------------------------------------------------

-- The same values inside a larger tensor whose dimensions lie in the opposite order; what lies around them is NaN.
local function as_view(x)
  local around = is_float(x) and 0 / 0 or 1
  local larger, order, n = {}, {}, x:dim()
  if n == 0 then return core.full({ 3 }, around, { dtype = x:dtype() }):select(1, 2):copy_(x) end
  for d = 1, n do larger[d], order[d] = x:size(n + 1 - d) + 2, n + 1 - d end
  local y = core.full(larger, 1, { dtype = x:dtype() })
  if is_float(x) then y:copy_(around) end
  y = y:permute(order)
  for d = 1, n do y = y:narrow(d, 2, x:size(d)) end
  return y:copy_(x)
end

local function in_layout(x, layout)
  if layout == "last" then return x:channels_last():clone() end
  return layout == "view" and as_view(x) or x:clone()
end

-- The same by ops that gradients go through.
local function moved_to_layout(x, layout) return layout == "last" and x:channels_last() or x end

-- Every tensor of the arguments in another layout.
local function lay_out(args, layout)
  for i = 1, args.n do
    local value = args[i]
    if type(value) == "userdata" then
      args[i] = in_layout(value, layout)
    elseif type(value) == "table" then
      for k, x in ipairs(value) do value[k] = type(x) == "userdata" and in_layout(x, layout) or x end
    end
  end
  return args
end

-- Comparison ------------------------------------------------------------------------------------------------------

local function numbers(x)
  if x:dtype() == "bool" then x = x:to "u8" end
  return x:clone():reshape(-1):totable()
end

-- Relative L2 distance; infinite where one is not a number and the other is.
local function distance(x, y)
  local a, b = numbers(x), numbers(y)
  local sum, norm = 0, 0
  for i = 1, #b do
    if a[i] ~= b[i] and not (a[i] ~= a[i] and b[i] ~= b[i]) then
      local d = a[i] - b[i]
      sum = d == d and sum + d * d or math.huge
    end
    if b[i] == b[i] then norm = norm + b[i] * b[i] end
  end
  return sum == 0 and 0 or math.sqrt(sum / norm)
end

local function assert_close(x, y, limit, what)
  assert.same(y:shape(), x:shape(), what)
  assert.equal(y:dtype(), x:dtype(), what)
  local d = distance(x, y)
  assert(d <= limit, ("%s: relative distance %.3g, expected at most %.3g"):format(what, d, limit))
end

local function on(backend, f)
  local before = core.backend()
  core.backend(backend)
  local results = table.pack(pcall(f))
  core.backend(before)
  if not results[1] then error(results[2], 0) end
  return table.unpack(results, 2, results.n)
end

-- What the case gives on a back end: the result, and where it has one the gradient of every float input.
local function evaluate(op, case, dtype, layout, backend)
  return on(backend, function()
    local args, floats = build(case, dtype)
    local inputs, before, gradients, wants = {}, {}, {}, case.grad ~= false
    lay_out(args, layout)
    for i, place in ipairs(floats) do
      inputs[i] = place.holder[place.key]
      before[i] = inputs[i]:clone()
      if wants then inputs[i]:requires_grad_() end
    end
    local y = call(op, case, args)
    for i, x in ipairs(inputs) do assert(x:detach():equal(before[i]), ("input %d was changed"):format(i)) end
    if wants then
      local dy = core.randn(y:shape(), { rng = core.rng(29), dtype = "f64" }):to(y:dtype())
      y:backward(in_layout(dy, layout))
      for i, x in ipairs(inputs) do gradients[i] = x:grad() end
    end
    return y:detach(), gradients
  end)
end

local function layouts_of(case) return case.layouts or LAYOUTS end

local function check_against_ref(op, case, dtype, forward_limit, gradient_limit)
  local expected, expected_gradients = evaluate(op, case, dtype, "row", "ref")
  for _, layout in ipairs(layouts_of(case)) do
    for _, backend in ipairs { "cpu", "ref" } do
      local what = ("%s, %s, layout %s"):format(backend, dtype, layout)
      local y, gradients = evaluate(op, case, dtype, layout, backend)
      assert_close(y, expected, case.exact and 0 or forward_limit, what)
      for i, g in ipairs(expected_gradients) do
        assert(gradients[i], what .. ": no gradient of input " .. i)
        assert_close(gradients[i], g, gradient_limit, ("%s, gradient %d"):format(what, i))
      end
    end
  end
end

-- Values never depend on layout (DESIGN rule 2) nor on threads (rule 9): not in the last bit.
-- OpenBLAS chooses its kernels by the sizes and strides of a product: with HDLUA_GEMM=blas the last bits may depend on
-- memory order, but not on threads.
local BETWEEN_LAYOUTS = os.getenv "HDLUA_GEMM" == "blas" and FORWARD or 0

local function check_bits(op, case)
  local first
  for _, layout in ipairs(layouts_of(case)) do
    local expected
    for _, threads in ipairs { 1, 3 } do
      local before = core.threads()
      core.threads(threads)
      local y, gradients = evaluate(op, case, "f32", layout, "cpu")
      core.threads(before)
      local found, what = { y, table.unpack(gradients) }, ("layout %s, %d threads"):format(layout, threads)
      expected = expected or found
      first = first or found
      for i, x in ipairs(found) do
        assert_close(x, expected[i], 0, ("%s, result %d"):format(what, i))
        assert_close(x, first[i], BETWEEN_LAYOUTS, ("%s, result %d"):format(what, i))
      end
    end
  end
end

-- On cpu and in two layouts: the others have the same gradients to 1e-12, see above.
local function check_gradients(op, case)
  for _, layout in ipairs(case.layouts or { "row", "last" }) do
    local args, floats = build(case, "f64")
    local inputs = {}
    for i, place in ipairs(floats) do inputs[i] = place.holder[place.key]:requires_grad_() end
    local function f(...)
      local moved = { ... }
      for i, place in ipairs(floats) do place.holder[place.key] = moved_to_layout(moved[i], layout) end
      return call(op, case, args)
    end
    local ok, message = hd.gradcheck(f, inputs, { atol = 1e-7, rtol = 1e-5 })
    assert(ok, ("layout %s: %s"):format(layout, message))
  end
end

-- A case as text for the test's name.
local function describe_case(case)
  local words = {}
  for i, value in ipairs(case) do
    if samples.is_description(value) then
      words[i] = "[" .. table.concat(value.shape, ",") .. "]"
    elseif type(value) == "table" and samples.is_description(value[1]) then
      words[i] = ("{%d tensors}"):format(#value)
    elseif type(value) == "table" then
      words[i] = value == samples.NIL and "nil" or #value > 0 and "{" .. table.concat(value, ",") .. "}" or "{options}"
    else
      words[i] = tostring(value)
    end
  end
  return table.concat(words, " ")
end

-- Tests -----------------------------------------------------------------------------------------------------------

local listed = samples.list()

describe("op list", function()
  it("has samples for every op, and none for others", function()
    local known = {}
    assert(#listed > 0)
    for _, op in ipairs(listed) do
      known[op.name] = true
      local list = samples.ops[op.name]
      assert(list and #list > 0 and list.errors, "tests/ops/samples.lua has no samples for " .. op.name)
    end
    for name in pairs(samples.ops) do assert(known[name], "op_list.def has no op " .. name) end
  end)
end)

describe("integers and bools", function()
  it("keep an open side of clamp open, and fractions of its bounds", function()
    for _, dtype in ipairs { "i64", "i32", "u8" } do
      local x = hd.tensor({ 0, 5, 9 }, { dtype = dtype })
      assert.are.same({ 2, 5, 9 }, x:clamp(2):totable())
      assert.are.same({ 0, 5, 7 }, x:clamp(nil, 7):totable())
      assert.are.same({ 0.5, 5, 7.5 }, x:clamp(0.5, 7.5):totable())
      assert.are.same({ 4, 4, 4 }, x:clamp(6, 4):totable())
    end
    assert.are.same({ -1, -1 }, hd.tensor({ 0, 5 }, { dtype = "u8" }):clamp(-5, -1):totable())
  end)

  it("are summed up along a dimension as numbers", function()
    local y = hd.tensor({ true, true, false, true }):cumsum(1)
    assert.are.equal("i64", y:dtype())
    assert.are.same({ 1, 2, 2, 3 }, y:totable())
  end)

  it("get defined values from numbers out of range", function()
    local x = hd.tensor({ -1.7, 300, 1e30, -1e30, 0 / 0 }, { dtype = "f64" })
    assert.are.same({ -1, 300, math.maxinteger, math.mininteger, 0 }, x:to("i64"):totable())
    assert.are.same({ 255, 44, 255, 0, 0 }, x:to("u8"):totable())
    assert.are.same({ 252 }, hd.full({ 1 }, -4, { dtype = "u8" }):totable())
  end)
end)

for _, op in ipairs(listed) do
  local cases = samples.ops[op.name] or {}
  describe(op.name, function()
    for _, case in ipairs(cases) do
      local text = describe_case(case)
      it("agrees with ref in f32: " .. text, function()
        check_against_ref(op, case, "f32", case.tolerance or FORWARD, GRADIENT)
      end)
      it("agrees with ref in f64: " .. text, function() check_against_ref(op, case, "f64", 1e-12, 1e-12) end)
      it("has the same bits in every layout, on any number of threads: " .. text, function() check_bits(op, case) end)
      if case.grad ~= false and not case.large then
        it("has the gradient of finite differences: " .. text, function() check_gradients(op, case) end)
      end
    end

    if op.forms:find "M" and op.forms:find "F" then
      it("is the same as a method", function()
        local args = build(cases[1], "f32")
        local x = args[1]
        assert(x[op.name](table.unpack(args, 1, args.n)):equal(core.op[op.name](table.unpack(args, 1, args.n))))
      end)
    end

    if op.forms:find "I" then
      it("is the same in place", function()
        for _, layout in ipairs(LAYOUTS) do
          local case = cases[2]
          local args = lay_out(build(case, "f32"), layout)
          local expected = call(op, case, args)
          local x = args[1]
          assert.equal(x, x[op.name .. "_"](table.unpack(args, 1, args.n)))
          assert(x:equal(expected))
        end
      end)
    end

    it("says what is wrong with a call", function()
      local f = core.op[op.name] or core.ones(1)[op.name]
      local first = { 5, match = op.name }
      for _, wrong in ipairs { {}, first, table.unpack(cases.errors) } do
        local args = build(wrong, "f32")
        local ok, message = pcall(function() f(table.unpack(args, 1, args.n)) end)
        local text = describe_case(wrong)
        assert(not ok, "no error for " .. text)
        assert(message:find(wrong.match or op.name), ("%s: %s, expected %s"):format(text, message, wrong.match))
        assert(message:find "^tests/lua/ops_spec.lua:%d+: ", "not at the caller's line: " .. message)
      end
    end)
  end)
end
