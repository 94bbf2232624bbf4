-- tests/ops/samples.lua: sample calls for every op of runtime/ops/op_list.def; tests/lua/ops_spec.lua and
-- nan_spec.lua run them.
-- ops.NAME = { case, case, ..., errors = { ... } }. A case lists the arguments in order, tensors as descriptions:
--   t{2, 3}                 normal numbers                     t({2, 3}, "positive")   0.3 to 2
--   t({2, 3}, "index", 7)   i64, 1 to 7                        t({2, 3}, "bool")
-- Fields of a case: grad = false (no gradient to check), large = true (no finite differences), exact = true (cpu and
-- ref must agree bit for bit), layouts (those of the spec by default), tolerance = relative L2 distance allowed between
-- cpu and ref in f32 (default 1e-6).
-- An error lists arguments too; `match` must stand in the message. Shapes are odd, or 1, or 0 on purpose.

local core = require "hd.core"

local samples = { NIL = {} } -- NIL stands for an argument that is nil

local description = {}
function samples.is_description(value) return getmetatable(value) == description end

local function t(shape, kind, limit)
  return setmetatable({ shape = shape, kind = kind or "normal", limit = limit }, description)
end

local NIL = samples.NIL
local ops = {}
samples.ops = ops

-- Element-wise, one operand -----------------------------------------------------------------------------------------

local function unary(kind, fields)
  fields = fields or {}
  local list = { errors = {} }
  for _, shape in ipairs { {}, { 1 }, { 37 }, { 3, 5 }, { 2, 3, 5, 3 }, { 2, 5, 3 }, { 0, 4 }, { 2, 0, 3, 3 } } do
    list[#list + 1] = { t(shape, kind), grad = fields.grad, exact = fields.exact }
  end
  return list
end

for _, name in ipairs { "neg", "abs", "square", "relu" } do ops[name] = unary("normal", { exact = true }) end
for _, name in ipairs { "exp", "expm1", "sin", "cos", "tanh", "erf", "sigmoid", "softplus", "silu", "gelu" } do
  ops[name] = unary "normal"
end
for _, name in ipairs { "log", "log1p", "sqrt", "rsqrt", "reciprocal" } do ops[name] = unary "positive" end
for _, name in ipairs { "sign", "floor", "ceil", "round" } do ops[name] = unary("normal", { exact = true }) end
ops.logical_not = unary("bool", { grad = false, exact = true })
ops.logical_not.errors = { { t { 3 }, match = "expected bool" } }
ops.isfinite = unary("normal", { grad = false, exact = true })
ops.leaky_relu = { { t { 37 } }, { t { 2, 3, 5 }, 0.2 }, errors = { { t { 3 }, "steep", match = "number" } } }
ops.clamp = {
  { t { 37 }, -0.5, 0.5, exact = true }, { t { 2, 3, 5 }, NIL, 0.25, exact = true },
  { t { 2, 3, 5 }, -0.25, exact = true },
  errors = { { t { 3 }, "low", match = "number" } },
}

-- Element-wise, two operands ----------------------------------------------------------------------------------------

-- Pairs of shapes that broadcast in every way, and a number.
local function binary(kind, fields)
  fields = fields or {}
  local second = fields.second or kind
  local list = {
    errors = {
      { t({ 2, 3 }, kind), t({ 2, 4 }, second), match = "%[2,3%].*%[2,4%]" },
      { t({ 2, 3 }, kind), "three", match = "number" },
    },
  }
  for _, pair in ipairs {
    { { 3, 5 }, { 3, 5 } }, { { 2, 3, 5, 3 }, { 2, 3, 5, 3 } }, { { 2, 3, 5, 3 }, { 3, 1, 1 } }, { { 5 }, { 3, 1 } },
    { { 2, 3, 1, 1 }, { 2, 1, 5, 3 } }, { {}, { 3, 5 } }, { { 2, 3, 4 }, {} }, { { 2, 3, 5 }, { 3, 1 } },
    { { 0, 3 }, { 3 } },
  } do
    list[#list + 1] = { t(pair[1], kind), t(pair[2], second), grad = fields.grad, exact = fields.exact }
  end
  if fields.number ~= nil then
    list[#list + 1] = { t({ 3, 5, 2 }, kind), fields.number, grad = fields.grad, exact = fields.exact }
  end
  return list
end

for _, name in ipairs { "add", "sub", "mul", "maximum", "minimum" } do
  ops[name] = binary("normal", { number = 0.75, exact = true })
end
ops.div = binary("normal", { second = "positive", number = 0.75, exact = true })
ops.pow = binary("positive", { second = "normal", number = 2.5 })
for _, name in ipairs { "mod", "floordiv" } do
  ops[name] = binary("normal", { second = "positive", number = 0.75, grad = false, exact = true })
end
for _, name in ipairs { "lt", "le", "gt", "ge", "eq", "ne" } do
  ops[name] = binary("integer", { number = 1, grad = false, exact = true })
end
for _, name in ipairs { "logical_and", "logical_or" } do ops[name] = binary("bool", { grad = false, exact = true }) end

ops.where = {
  { t({ 3, 5 }, "bool"), t { 3, 5 }, t { 3, 5 }, exact = true },
  { t({ 2, 1, 5, 3 }, "bool"), t { 2, 3, 5, 3 }, t { 3, 1, 1 }, exact = true },
  { t({ 2, 3, 5 }, "bool"), t { 5 }, 0.5, exact = true }, { t({ 3, 1 }, "bool"), -1, t { 3, 4 }, exact = true },
  errors = {
    { t { 3 }, t { 3 }, t { 3 }, match = "expected bool" }, { t({ 3 }, "bool"), 1, 2, match = "expected a tensor" },
    { t({ 3 }, "bool"), t { 4 }, t { 4 }, match = "%[3%].*%[4%]" },
  },
}
ops.to = {
  { t { 2, 3, 5 }, "f64", exact = true, grad = false }, { t { 2, 3, 5, 3 }, "i32", exact = true, grad = false },
  { t { 7 }, "u8", exact = true, grad = false }, { t { 3, 5 }, "bool", exact = true, grad = false },
  { t({ 3, 5 }, "integer"), "f32", exact = true, grad = false },
  { t { 2, 3, 5 }, "float64", exact = true, grad = false },
  errors = { { t { 3 }, "f16", match = "f16.*f32" }, { t { 3 }, 32, match = "expected f32" } },
}

-- Reductions --------------------------------------------------------------------------------------------------------

local function reduction(kind, fields)
  fields = fields or {}
  local list = {
    errors = {
      { t({ 2, 3 }, kind), 3, match = "3" }, { t({ 2, 3 }, kind), 0, match = "0" },
      { t({ 2, 3 }, kind), { 1, 1 }, match = "twice" }, { t({ 2, 3 }, kind), "rows", match = "dims" },
    },
  }
  for _, case in ipairs {
    { t({}, kind) }, { t({ 37 }, kind) }, { t({ 3, 5 }, kind) }, { t({ 3, 5 }, kind), 1 },
    { t({ 3, 5 }, kind), -1, true },
    { t({ 2, 3, 5, 3 }, kind), { 3, 4 } }, { t({ 2, 3, 5, 3 }, kind), { 1, 3, 4 }, true },
    { t({ 2, 3, 5, 3 }, kind), 2 },
    { t({ 2, 1, 5 }, kind), 2 }, { t({ 4, 3, 5 }, kind), { 1, -1 } },
  } do
    case.grad, case.exact, case.tolerance = fields.grad, fields.exact, fields.tolerance
    list[#list + 1] = case
  end
  if fields.empty then list[#list + 1] = { t({ 0, 3 }, kind), 1, grad = false } end
  if fields.empty == false then
    list.errors[#list.errors + 1] = { t({ 0, 3 }, kind), 1, match = "no elements" }
  end
  return list
end

ops.sum, ops.mean = reduction("normal", { empty = true }), reduction "normal"
ops.prod = reduction("positive", { empty = true })
ops.amax, ops.amin = reduction("normal", { exact = true, empty = false }),
reduction("normal", { exact = true, empty = false })
for _, name in ipairs { "argmax", "argmin" } do
  ops[name] = reduction("normal", { grad = false, exact = true, empty = false })
end
for _, name in ipairs { "all", "any" } do
  ops[name] = reduction("bool", { grad = false, exact = true, empty = true })
  table.insert(ops[name].errors, { t { 3 }, match = "expected bool" })
end
ops.var = reduction "normal"
table.remove(ops.var, 9) -- one element has no unbiased variance
table.remove(ops.var, 1)
ops.var[#ops.var + 1] = { t { 3, 5 }, 2, { unbiased = false } }
ops.norm, ops.logsumexp = reduction "normal", reduction "normal"

local function along(fields)
  local list = {
    { t { 37 }, 1 }, { t { 3, 5 }, 2 }, { t { 3, 5 }, 1 }, { t { 2, 3, 5, 3 }, 2 }, { t { 2, 3, 5, 3 }, -1 },
    { t { 2, 5, 1 }, 3 },
    { t { 0, 3 }, 2 },
    errors = { { t { 2, 3 }, 3, match = "3" }, { t { 2, 3 }, match = "dim" } },
  }
  for _, case in ipairs(list) do case.exact = fields and fields.exact end
  return list
end

ops.cumsum, ops.softmax, ops.log_softmax = along(), along(), along()

-- Views and moves: exact everywhere ---------------------------------------------------------------------------------

ops.reshape = {
  { t { 3, 5 }, { 5, 3 } }, { t { 2, 3, 4, 5 }, { 6, -1 } }, { t { 2, 3, 4, 5 }, { 2, 3, 20 } }, { t { 1 }, {} },
  { t {}, { 1, 1 } },
  { t { 2, 3, 5 }, { 30 } }, { t { 0, 3 }, { 3, 0 } },
  errors = {
    { t { 2, 3 }, { 4, 2 }, match = "%[2,3%].*%[4,2%]" }, { t { 2, 3 }, { -1, -1 }, match = "%-1" },
    { t { 2, 3 }, { 4, -1 }, match = "element counts" }, { t { 2, 3 }, match = "sizes" },
  },
}
ops.view = {
  { t { 3, 5 }, { 15 }, layouts = { "row" } }, { t { 2, 3, 4, 5 }, { 6, -1 }, layouts = { "row" } },
  { t { 2, 3, 4 }, { 2, 3, 2, 2 }, layouts = { "row" } }, { t { 3, 1, 5 }, { 3, 5 } }, { t { 3, 5 }, { 3, 1, 5 } },
  errors = {
    { t { 2, 3 }, { 4, 2 }, match = "%[2,3%].*%[4,2%]" },
    { t({ 2, 3, 5, 3 }, "columns"), { 90 }, match = "reshape" },
  },
}
ops.flatten = {
  { t { 2, 3, 5, 4 } }, { t { 2, 3, 5, 4 }, 2 }, { t { 2, 3, 5, 4 }, 2, 3 }, { t { 2, 3, 5 }, -2, -1 }, { t {} },
  errors = { { t { 2, 3, 4 }, 3, 2, match = "order" }, { t { 2, 3 }, 4, match = "4" } },
}
ops.permute = {
  { t { 3, 5 }, { 2, 1 } }, { t { 2, 3, 5, 4 }, { 1, 3, 4, 2 } }, { t { 2, 3, 5 }, { -1, 1, 2 } },
  errors = { { t { 2, 3 }, { 1, 1 }, match = "twice" }, { t { 2, 3 }, { 1 }, match = "number of dimensions" } },
}
ops.transpose = {
  { t { 3, 5 }, 1, 2 }, { t { 2, 3, 5, 4 }, 2, -1 }, { t { 2, 3 }, 1, 1 },
  errors = { { t { 2, 3 }, 1, 3, match = "3" } },
}
ops.expand = {
  { t { 1, 5 }, { 3, 5 } }, { t { 3, 1, 1 }, { 2, 3, 4, 5 } }, { t { 2, 1, 4 }, { -1, 3, -1 } }, { t {}, { 2, 3 } },
  errors = { { t { 2, 3 }, { 4, 3 }, match = "%[2,3%].*%[4,3%]" }, { t { 2, 3 }, { 3 }, match = "%[2,3%]" } },
}
ops.unsqueeze = {
  { t { 3, 5 }, 1 }, { t { 3, 5 }, 2 }, { t { 3, 5 }, 3 }, { t { 2, 3, 5 }, -1 }, { t {}, 1 },
  errors = { { t { 3, 5 }, 4, match = "4" } },
}
ops.squeeze = {
  { t { 1, 3, 1, 5 } }, { t { 1, 3, 1, 5 }, 3 }, { t { 3, 5 }, 1 }, { t { 3, 1 }, -1 },
  errors = { { t { 3, 1 }, 3, match = "3" } },
}
ops.narrow = {
  { t { 7 }, 1, 2, 4 }, { t { 2, 5, 3, 4 }, 2, 2, 3 }, { t { 2, 5, 3 }, -1, -2, 2 }, { t { 3, 5 }, 1, 2, 0 },
  { t { 3, 5 }, 2, 1, 5 },
  errors = {
    { t { 3, 5 }, 2, 4, 3, match = "%[3,5%]" }, { t { 3, 5 }, 2, 0, 3, match = "0" },
    { t { 3, 5 }, 3, 1, 1, match = "3" },
  },
}
ops.select = {
  { t { 7 }, 1, 3 }, { t { 2, 5, 3, 4 }, 2, 4 }, { t { 2, 5, 3 }, 3, -1 }, { t { 2, 5, 3 }, -3, 2 },
  errors = { { t { 3, 5 }, 2, 6, match = "6.*5" }, { t { 3, 5 }, 2, 0, match = "0" } },
}
ops.flip = {
  { t { 7 }, 1 }, { t { 2, 3, 5, 4 }, { 3, 4 } }, { t { 2, 3, 5 }, -1 }, { t { 0, 3 }, 1 },
  errors = { { t { 2, 3 }, 3, match = "3" }, { t { 2, 3 }, { 1, 1 }, match = "twice" } },
}
ops.contiguous = { { t { 3, 5 } }, { t { 2, 3, 5, 4 } }, { t {} }, { t { 0, 3 } }, errors = {} }
ops.channels_last = { { t { 2, 3, 5, 4 } }, { t { 2, 3, 5 } }, { t { 3, 5 } }, { t { 2, 0, 3, 3 } }, errors = {} }
ops.clone = { { t { 3, 5 } }, { t { 2, 3, 5, 4 } }, { t {} }, { t { 0, 3 } }, errors = {} }
ops.copy_ = {
  { t { 3, 5 }, t { 3, 5 } }, { t { 2, 3, 5, 4 }, t { 3, 1, 1 } }, { t { 2, 3 }, 0.5 },
  call = function(op, x, y) return op.mul(x, 1):copy_(y) end, -- an op's result may be overwritten, a leaf may not
  errors = {
    { t { 3, 5 }, t { 3, 4 }, match = "copy_.*%[3,5%].*%[3,4%]" }, { t { 5 }, t { 3, 5 }, match = "%[3,5%].*%[5%]" },
  },
}
ops.cat = {
  { { t { 2, 3 }, t { 4, 3 } } }, { { t { 2, 3, 5, 4 }, t { 2, 2, 5, 4 }, t { 2, 1, 5, 4 } }, 2 }, { { t { 3 } }, 1 },
  { { t { 2, 3 }, t { 2, 0 } }, -1 }, { { t { 2, 3, 5 }, t { 2, 3, 2 } }, 3 },
  errors = {
    { { t { 2, 3 }, t { 3, 3 } }, 2, match = "%[2,3%].*%[3,3%]" }, { {}, match = "cat" },
    { { t { 2, 3 }, 5 }, match = "cat" },
    { { t { 2, 3 } }, 3, match = "3" },
  },
}
ops.pad = {
  { t { 3, 5 }, { 1, 2 } }, { t { 2, 3, 5, 4 }, { 1, 1, 2, 0 } }, { t { 2, 3, 5 }, { -1, 2 }, 0.5 },
  { t { 2, 3, 5, 4 }, { 0, 0, -1, -1, 1, 0 } },
  errors = {
    { t { 3, 5 }, { 1 }, match = "pairs" }, { t { 3 }, { 1, 1, 1, 1 }, match = "1" },
    { t { 3, 5 }, { -3, -3 }, match = "%[3,5%]" },
  },
}
ops.index_select = {
  { t { 7 }, 1, t({ 5 }, "index", 7) }, { t { 3, 5, 2 }, 2, t({ 9 }, "index", 5) },
  { t { 2, 3, 5, 4 }, 2, t({ 3 }, "index", 3) },
  { t { 3, 5 }, -1, t({ 0 }, "index", 5) },
  errors = {
    { t { 3 }, 1, t({ 2 }, "beyond", 3), match = "expected 1 to 3" }, { t { 3 }, 1, t { 2 }, match = "type" },
    { t { 3 }, 1, t({ 2, 2 }, "index", 3), match = "index" },
  },
}
ops.gather = {
  { t { 3, 5 }, 2, t({ 3, 4 }, "index", 5) }, { t { 3, 5 }, 1, t({ 2, 5 }, "index", 3) },
  { t { 2, 3, 5 }, 3, t({ 2, 2, 7 }, "index", 5) },
  { t { 7 }, 1, t({ 9 }, "index", 7) },
  errors = {
    { t { 3, 5 }, 2, t({ 3, 2 }, "beyond", 5), match = "expected 1 to 5" },
    { t { 3, 5 }, 2, t({ 4, 2 }, "index", 5), match = "%[4,2%].*%[3,5%]" },
  },
}
for _, name in ipairs {
  "reshape", "view", "flatten", "permute", "transpose", "expand", "unsqueeze", "squeeze", "narrow", "select", "flip",
  "contiguous", "channels_last", "clone", "copy_", "cat", "pad", "index_select", "gather",
} do
  for _, case in ipairs(ops[name]) do case.exact = true end
end

-- Products and layers -----------------------------------------------------------------------------------------------

ops.matmul = {
  { t { 3, 5 }, t { 5, 4 } }, { t { 2, 3, 5 }, t { 2, 5, 4 } }, { t { 2, 1, 3, 5 }, t { 3, 5, 2 } },
  { t { 2, 3, 5 }, t { 5, 4 } },
  { t { 5 }, t { 5 } }, { t { 3, 5 }, t { 5 } }, { t { 5 }, t { 2, 5, 3 } },
  { t { 1, 17 }, t { 17, 1 }, tolerance = 5e-6 },
  { t { 3, 0 }, t { 0, 4 } },
  { t { 0, 3 }, t { 3, 2 } },
  errors = {
    { t { 3, 5 }, t { 4, 5 }, match = "%[3,5%].*%[4,5%]" },
    { t { 2, 3, 5 }, t { 3, 5, 2 }, match = "%[2,3,5%].*%[3,5,2%]" },
    { t {}, t { 3 }, match = "matmul" }, { t { 3, 5 }, 2, match = "tensor" },
  },
}
ops.linear = {
  { t { 3, 5 }, t { 4, 5 }, t { 4 } }, { t { 2, 3, 5 }, t { 4, 5 } }, { t { 5 }, t { 1, 5 }, t { 1 } },
  { t { 2, 1, 3, 7 }, t { 3, 7 }, t { 3 } },
  { t { 0, 5 }, t { 4, 5 }, t { 4 }, grad = false },
  errors = {
    { t { 3, 5 }, t { 4, 6 }, match = "%[3,5%].*%[4,6%]" }, { t { 3, 5 }, t { 4, 5 }, t { 5 }, match = "bias" },
  },
}
ops.embedding = {
  { t({ 7 }, "index", 5), t { 5, 3 } }, { t({ 2, 3 }, "index", 5), t { 5, 4 } }, { t({}, "index", 2), t { 2, 3 } },
  errors = {
    { t({ 2 }, "beyond", 5), t { 5, 3 }, match = "expected 1 to 5" }, { t { 2 }, t { 5, 3 }, match = "type" },
  },
}
ops.conv1d = {
  { t { 2, 3, 11 }, t { 4, 3, 3 }, t { 4 } }, { t { 1, 2, 7 }, t { 3, 2, 1 } },
  { t { 2, 4, 9 }, t { 6, 2, 3 }, t { 6 }, { padding = 1, groups = 2 } },
  { t { 2, 3, 13 }, t { 2, 3, 4 }, NIL, { stride = 2, padding = 2, dilation = 2 } },
  { t { 3, 1, 5 }, t { 1, 1, 5 }, t { 1 } }, { t { 2, 3, 7 }, t { 4, 3, 3 }, t { 4 }, t { 2, 4, 1 }, { padding = 1 } },
  errors = {
    { t { 2, 3, 5 }, t { 4, 2, 3 }, match = "conv1d: channel count differs: got input %[2,3,5%]" },
    { t { 2, 3, 5, 5 }, t { 4, 3, 3 }, match = "conv1d" }, { t { 1, 1, 2 }, t { 1, 1, 3 }, match = "larger" },
  },
}
ops.conv2d = {
  { t { 2, 3, 6, 5 }, t { 4, 3, 3, 3 }, t { 4 }, { padding = 1 } }, { t { 1, 3, 5, 7 }, t { 2, 3, 1, 1 }, t { 2 } },
  { t { 2, 4, 7, 5 }, t { 6, 4, 3, 3 }, NIL, { stride = 2, padding = 1 } },
  { t { 1, 4, 5, 5 }, t { 4, 1, 3, 3 }, t { 4 }, { padding = 1, groups = 4 } },
  { t { 2, 4, 6, 6 }, t { 2, 2, 2, 3 }, NIL, { stride = { 1, 2 }, padding = { 0, 1 }, groups = 2 } },
  { t { 1, 2, 9, 8 }, t { 3, 2, 3, 3 }, t { 3 }, { dilation = 2, padding = 2 } },
  { t { 1, 1, 4, 4 }, t { 2, 1, 4, 4 } },
  { t { 1, 2, 5, 5 }, t { 2, 2, 5, 5 }, t { 2 }, { padding = 2 } },
  { t { 1, 2, 1, 1 }, t { 2, 2, 3, 3 }, t { 2 }, { padding = 1 } },
  { t { 1, 16, 0, 3 }, t { 16, 16, 3, 3 }, t { 16 }, { padding = 2 }, large = true },
  { t { 0, 2, 4, 4 }, t { 3, 2, 3, 3 }, t { 3 }, grad = false },
  { t { 1, 2, 7, 7 }, t { 3, 2, 2, 2 }, t { 3 }, { stride = 3 } },
  { t { 2, 17, 5, 4 }, t { 19, 17, 3, 3 }, t { 19 }, { padding = 1 }, large = true },
  { t { 2, 3, 4, 5 }, t { 4, 3, 2, 2 }, t { 4 }, t { 2, 4, 3, 4 } },
  { t { 2, 3, 4, 5 }, t { 4, 3, 2, 2 }, NIL, t { 2, 4, 1, 1 } },
  { t { 2, 3, 4, 5 }, t { 4, 5, 2, 3 }, t { 4 }, NIL, t { 2, 2, 4, 5 }, { padding = 1 } },
  { t { 2, 2, 5, 4 }, t { 3, 5, 1, 1 }, t { 3 }, t { 2, 3, 5, 4 }, t { 2, 3, 5, 4 } },
  { t { 2, 20, 5, 4 }, t { 34, 36, 1, 1 }, t { 34 }, NIL, t { 2, 16, 5, 4 }, large = true },
  { t { 1, 16, 8, 9 }, t { 17, 32, 3, 3 }, t { 17 }, t { 1, 17, 8, 9 }, t { 1, 16, 8, 9 }, { padding = 1 },
    large = true },
  { t { 2, 16, 7, 9 }, t { 18, 16, 3, 3 }, t { 18 }, t { 2, 18, 7, 9 }, { padding = 1 }, large = true },
  { t { 2, 16, 7, 9 }, t { 18, 16, 3, 3 }, NIL, t { 1, 18, 1, 9 }, { padding = 1 }, large = true },
  errors = {
    { t { 1, 3, 4, 4 }, t { 4, 3, 3, 3 }, t { 4 }, t { 1, 4, 2, 3 },
      match = "add differs: got %[1,4,2,3%], expected %[1,4,2,2%]" },
    { t { 1, 2, 4, 4 }, t { 4, 3, 3, 3 }, NIL, NIL, t { 1, 1, 4, 3 }, match = "more differs .*got %[1,1,4,3%]" },
    { t { 1, 2, 4, 4 }, t { 4, 3, 3, 3 }, NIL, NIL, t { 1, 2, 4, 4 }, match = "channel count differs" },
    { t { 8, 3, 4, 4 }, t { 64, 4, 3, 3 }, match = "conv2d: channel count differs: got input %[8,3,4,4%].*expected 4" },
    { t { 1, 3, 4, 4 }, t { 4, 3, 3, 3 }, t { 3 }, match = "bias differs" },
    { t { 1, 3, 2, 4 }, t { 4, 3, 3, 3 }, match = "larger" },
    { t { 1, 3, 4, 4 }, t { 4, 3, 3, 3 }, NIL, { pading = 1 }, match = "unknown option 'pading'.*padding" },
    { t { 1, 3, 4, 4 }, t { 4, 3, 3, 3 }, NIL, { stride = 0 }, match = "stride" },
    { t { 1, 4, 4, 4 }, t { 3, 2, 3, 3 }, NIL, { groups = 2 }, match = "groups" },
  },
}
ops.conv_transpose1d = {
  { t { 2, 3, 5 }, t { 3, 4, 3 }, t { 4 } },
  { t { 1, 4, 7 }, t { 4, 2, 4 }, NIL, { stride = 2, padding = 1, groups = 2 } },
  { t { 2, 2, 5 }, t { 2, 3, 3 }, t { 3 }, { stride = 3, output_padding = 2, dilation = 2 } },
  errors = { { t { 2, 3, 5 }, t { 4, 3, 3 }, match = "conv_transpose1d: channel count" } },
}
ops.conv_transpose2d = {
  { t { 2, 3, 4, 5 }, t { 3, 4, 3, 3 }, t { 4 }, { padding = 1 } },
  { t { 1, 4, 3, 3 }, t { 4, 2, 4, 4 }, NIL, { stride = 2, padding = 1, groups = 2 } },
  { t { 1, 2, 3, 4 }, t { 2, 3, 3, 2 }, t { 3 }, { stride = { 2, 1 }, output_padding = { 1, 0 } } },
  { t { 2, 3, 1, 1 }, t { 3, 2, 2, 2 }, t { 2 } },
  errors = {
    { t { 2, 3, 5, 5 }, t { 4, 3, 3, 3 }, match = "conv_transpose2d: channel count" },
    { t { 2, 3, 5, 5 }, t { 3, 4, 3, 3 }, NIL, { output_padding = 1 }, match = "output_padding" },
  },
}
ops.group_norm = {
  { t { 2, 6, 5, 3 }, 3, t { 6 }, t { 6 } }, { t { 2, 4, 7 }, 1, t { 4 }, t { 4 } }, { t { 3, 4, 2, 2 }, 4 },
  { t { 2, 6 }, 2, t { 6 }, t { 6 } },
  { t { 2, 6, 3, 3 }, 2, t { 6 }, t { 6 }, { activation = "silu" } }, { t { 1, 3, 5, 1 }, 1, NIL, NIL, { eps = 1e-3 } },
  { t { 2, 4, 3, 3 }, 2, NIL, NIL, { activation = "silu" } },
  { t { 1, 34, 3, 3 }, 17, t { 34 }, t { 34 }, large = true },
  { t { 2, 4, 3, 3 }, 3, t { 6 }, t { 6 }, t { 2, 2, 3, 3 } },
  { t { 2, 4, 3, 3 }, 2, t { 6 }, t { 6 }, t { 2, 2, 3, 3 }, { activation = "silu" } },
  { t { 2, 1, 5 }, 2, NIL, t { 6 }, t { 2, 5, 5 } }, { t { 3, 5 }, 2, t { 8 }, NIL, t { 3, 3 } },
  { t { 1, 2, 4, 2 }, 1, t { 3 }, t { 3 }, t { 1, 1, 4, 2 }, { activation = "silu" } },
  { t { 2, 0, 3, 3 }, 3, NIL, NIL, t { 2, 0, 3, 3 } },
  { t { 2, 20, 5, 3 }, 4, t { 36 }, t { 36 }, t { 2, 16, 5, 3 }, { activation = "silu" }, large = true },
  errors = {
    { t { 2, 4, 3, 3 }, 3, NIL, NIL, t { 2, 2, 3, 2 }, match = "more differs outside the channels: got %[2,2,3,2%]" },
    { t { 2, 4, 3, 3 }, 3, NIL, NIL, t { 2, 3, 3, 3 }, match = "3 groups for input %[2,4,3,3%] and %[2,3,3,3%]" },
    { t { 2, 6, 3, 3 }, 4, match = "group_norm.*4 groups.*%[2,6,3,3%]" },
    { t { 2, 6, 3, 3 }, 3, t { 5 }, match = "weight differs" },
    { t { 2, 6, 3, 3 }, 3, NIL, NIL, { activation = "relu" }, match = "relu" }, { t { 6 }, 3, match = "group_norm" },
  },
}
ops.group_norm_conv1d = {
  { t { 2, 4, 7 }, 2, t { 4 }, t { 4 }, NIL, t { 3, 4, 3 }, t { 3 }, NIL, { activation = "silu", padding = 1 } },
  { t { 2, 3, 5 }, 1, NIL, NIL, t { 2, 1, 5 }, t { 3, 4, 2 }, NIL, t { 2, 3, 2 }, { stride = 2, dilation = 2 } },
  { t { 1, 20, 133 }, 4, t { 36 }, t { 36 }, t { 1, 16, 133 }, t { 17, 36, 5 }, t { 17 }, NIL,
    { activation = "silu", padding = 2 }, large = true, tolerance = 2e-6 },
  { t { 3, 16, 250 }, 1, t { 16 }, NIL, NIL, t { 16, 16, 3 }, NIL, t { 3, 16, 250 }, { padding = 1 }, large = true },
  { t { 2, 2, 4 }, 1, NIL, NIL, NIL, t { 0, 2, 3 }, t { 0 } },
  errors = {
    { t { 2, 4, 7 }, 3, NIL, NIL, NIL, t { 3, 4, 3 }, match = "group_norm_conv1d: groups do not divide" },
    { t { 2, 4, 7, 1 }, 2, NIL, NIL, NIL, t { 3, 4, 3 }, match = "group_norm_conv1d" },
  },
}
ops.group_norm_conv2d = {
  { t { 2, 4, 5, 3 }, 2, t { 4 }, t { 4 }, NIL, t { 3, 4, 3, 3 }, t { 3 }, NIL, { activation = "silu", padding = 1 } },
  { t { 2, 3, 4, 5 }, 3, NIL, t { 6 }, t { 2, 3, 4, 5 }, t { 2, 6, 2, 3 }, NIL, t { 2, 2, 1, 1 } },
  { t { 1, 2, 4, 3 }, 1, t { 3 }, NIL, t { 1, 1, 4, 3 }, t { 2, 3, 1, 1 }, t { 2 }, NIL, { eps = 1e-3 } },
  { t { 1, 4, 1, 1 }, 2, NIL, NIL, NIL, t { 2, 4, 3, 3 }, NIL, NIL, { activation = "silu", padding = 1 } },
  { t { 1, 2, 5, 7 }, 1, t { 2 }, t { 2 }, NIL, t { 2, 2, 3, 3 }, t { 2 }, NIL,
    { activation = "silu", stride = 2, padding = { 1, 2 } } },
  { t { 0, 4, 5, 3 }, 2, t { 4 }, t { 4 }, NIL, t { 3, 4, 3, 3 }, t { 3 }, grad = false },
  { t { 0, 16, 5, 3 }, 2, NIL, NIL, NIL, t { 16, 16, 3, 3 }, t { 16 }, NIL, { padding = 1 }, grad = false },
  { t { 2, 0, 5, 3 }, 1, NIL, NIL, t { 2, 0, 5, 3 }, t { 3, 0, 3, 3 }, t { 3 } },
  { t { 2, 0, 5, 3 }, 1, NIL, NIL, t { 2, 2, 5, 3 }, t { 3, 2, 3, 3 }, t { 3 } },
  { t { 1, 16, 0, 3 }, 2, NIL, NIL, NIL, t { 16, 16, 3, 3 }, t { 16 }, NIL, { padding = 2 }, large = true },
  { t { 3, 16, 9, 11 }, 4, t { 16 }, t { 16 }, NIL, t { 18, 16, 3, 3 }, t { 18 }, t { 3, 18, 9, 11 },
    { activation = "silu", padding = 1 }, large = true, tolerance = 2e-6 },
  { t { 2, 17, 14, 13 }, 3, t { 33 }, t { 33 }, t { 2, 16, 14, 13 }, t { 33, 33, 3, 3 }, NIL, NIL,
    { activation = "silu", padding = { 0, 2 } }, large = true, tolerance = 2e-6 },
  { t { 7, 70, 8, 8 }, 5, NIL, t { 70 }, NIL, t { 16, 70, 3, 3 }, t { 16 }, NIL, { padding = 1 }, large = true,
    tolerance = 2e-6 },
  errors = {
    { t { 2, 4, 5, 3 }, 3, NIL, NIL, NIL, t { 3, 4, 3, 3 }, match = "group_norm_conv2d: groups do not.*3 groups" },
    { t { 2, 4, 5, 3 }, 2, t { 5 }, NIL, NIL, t { 3, 4, 3, 3 }, match = "norm_conv2d: weight differs: got %[5%]" },
    { t { 2, 4, 5, 3 }, 2, NIL, NIL, t { 2, 2, 5, 4 }, t { 3, 6, 3, 3 }, match = "more differs" },
    { t { 2, 4, 5, 3 }, 2, NIL, NIL, NIL, t { 3, 5, 3, 3 }, match = "group_norm_conv2d: channel count differs" },
    { t { 2, 4, 5, 3 }, 2, NIL, NIL, NIL, t { 3, 4, 3, 4 }, match = "larger" },
    { t { 2, 4, 5, 3 }, 2, NIL, NIL, NIL, t { 3, 4, 3, 3 }, t { 4 }, match = "bias differs" },
    { t { 2, 4, 5, 3 }, 2, NIL, NIL, NIL, t { 3, 4, 3, 3 }, NIL, t { 2, 3, 3, 3 }, match = "add differs" },
    { t { 2, 4, 5, 3 }, 2, NIL, NIL, NIL, NIL, match = "weight" },
  },
}
ops.layer_norm = {
  { t { 2, 0 }, { 0 }, t { 0 }, t { 0 } },
  { t { 3, 5 }, { 5 }, t { 5 }, t { 5 } }, { t { 2, 3, 7 }, { 3, 7 }, t { 3, 7 }, t { 3, 7 } },
  { t { 2, 3, 4 }, { 4 } },
  { t { 2, 3, 5 }, { 5 }, t { 5 }, NIL, { eps = 1e-3 } },
  errors = { { t { 3, 5 }, { 4 }, match = "layer_norm" }, { t { 3, 5 }, { 5 }, t { 4 }, match = "weight" } },
}
ops.rms_norm = {
  { t { 2, 0 }, { 0 }, t { 0 } },
  { t { 3, 5 }, { 5 }, t { 5 } }, { t { 2, 3, 7 }, { 7 } }, { t { 2, 3, 4 }, { 3, 4 }, t { 3, 4 }, { eps = 1e-3 } },
  errors = { { t { 3, 5 }, { 4 }, match = "rms_norm" } },
}
ops.scaled_dot_product_attention_qkvpacked = {
  { t { 2, 5, 24 }, 2 }, { t { 1, 1, 3 }, 1 }, { t { 3, 7, 9 }, 3 }, { t { 1, 9, 15 }, 1, { scale = 0.3 } },
  { t { 2, 33, 48 }, 2, large = true }, { t { 0, 4, 6 }, 2, grad = false }, { t { 2, 3, 0 }, 2 },
  errors = {
    { t { 2, 5, 24 }, 3, match = "%[2,5,24%].*3 heads" }, { t { 2, 5, 24 }, 0, match = "0 heads" },
    { t { 2, 5, 24 }, math.maxinteger, match = "9223372036854775807 heads" },
    { t { 5, 24 }, 2, match = "qkv" }, { t({ 2, 5, 24 }, "index", 5), 2, match = "i64" },
  },
}
ops.scaled_dot_product_attention = {
  { t { 2, 3, 5, 4 }, t { 2, 3, 7, 4 }, t { 2, 3, 7, 3 } }, { t { 2, 5, 4 }, t { 2, 5, 4 }, t { 2, 5, 4 } },
  { t { 3, 4 }, t { 6, 4 }, t { 6, 2 } }, { t { 2, 0, 4 }, t { 2, 3, 4 }, t { 2, 3, 2 } },
  { t { 2, 5, 0 }, t { 2, 3, 0 }, t { 2, 3, 2 } }, { t { 2, 5, 4 }, t { 2, 3, 4 }, t { 2, 3, 2 }, { scale = 0 } },
  { t { 1, 1, 1, 1 }, t { 1, 1, 1, 1 }, t { 1, 1, 1, 1 } },
  { t { 1, 2, 9, 3 }, t { 1, 2, 9, 3 }, t { 1, 2, 9, 3 }, { scale = 0.3 } },
  errors = { { t { 2, 5, 4 }, t { 2, 5, 3 }, t { 2, 5, 4 }, match = "%[2,5,4%].*%[2,5,3%]" } },
}
ops.interpolate = {
  { t { 2, 3, 4, 5 }, { scale_factor = 2 } }, { t { 1, 2, 5, 3 }, { size = { 3, 7 } } },
  { t { 1, 2, 3, 4 }, { size = { 6, 8 }, mode = "bilinear" } },
  { t { 1, 2, 5, 7 }, { size = { 3, 4 }, mode = "bilinear", align_corners = true } },
  { t { 2, 3, 5 }, { scale_factor = 2 } },
  { t { 1, 2, 4, 4 }, { scale_factor = { 0.5, 1.5 }, mode = "bilinear" } },
  { t { 1, 1, 1, 1 }, { size = { 3, 3 }, mode = "bilinear" } },
  errors = {
    { t { 1, 2, 3, 4 }, match = "interpolate" }, { t { 1, 2, 3, 4 }, { size = { 0, 2 } }, match = "interpolate" },
    { t { 1, 2, 3, 4 }, { size = 2, mode = "cubic" }, match = "cubic" },
    { t { 3, 4 }, { size = 2 }, match = "%[3,4%]" },
  },
}

local function pool(sizes)
  return sizes == 1 and {
    { t { 2, 3, 8 }, 2 }, { t { 1, 2, 7 }, 3, 2 }, { t { 1, 2, 7 }, 3, 2, 1 }, { t { 2, 1, 5 }, 5 },
    errors = {
      { t { 1, 2, 3 }, 4, match = "window" }, { t { 1, 2, 3 }, 2, 1, 2, match = "padding" },
      { t { 3 }, 2, match = "%[3%]" }, { t { 1, 2, 0 }, 2, 1, 1, match = "window" }, -- a window of padding alone
    },
  } or {
    { t { 2, 3, 4, 6 }, 2 }, { t { 1, 2, 5, 7 }, 3, 2 }, { t { 1, 2, 5, 7 }, 3, 1, 1 },
    { t { 2, 1, 5, 4 }, { 2, 3 }, { 2, 1 }, { 1, 0 } },
    errors = {
      { t { 1, 2, 3, 3 }, 4, match = "window" }, { t { 3, 3 }, 2, match = "%[3,3%]" },
      { t { 1, 2, 3, 3 }, match = "kernel" }, { t { 1, 2, 3, 0 }, 2, 1, 1, match = "window" },
    },
  }
end

ops.avg_pool1d, ops.max_pool1d, ops.avg_pool2d, ops.max_pool2d = pool(1), pool(1), pool(2), pool(2)
ops.mse_loss = {
  { t { 3, 5 }, t { 3, 5 } }, { t { 2, 3, 5, 3 }, t { 2, 3, 5, 3 } }, { t {}, t {} },
  errors = { { t { 3, 5 }, t { 5 }, match = "%[3,5%].*%[5%]" }, { t { 3 }, 1, match = "tensor" } },
}

-- Reading and calling ------------------------------------------------------------------------------------------------

--- The ops of op_list.def in its order.
---@return { name: string, signature: string, forms: string, backward: boolean }[]
function samples.list()
  local list = {}
  for line in io.lines "runtime/ops/op_list.def" do
    local name, signature, backward, forms = line:match '^HD_OP%(([%w_]+),%s*"([^"]*)", [%w_]+, (%u+),.-"([FMI!]+)"'
    list[#list + 1] = name and { name = name, signature = signature, forms = forms, backward = backward == "YES" }
  end
  return list
end

local DRAW = {
  normal = function(shape, rng) return core.randn(shape, { rng = rng, dtype = "f64" }) end,
  positive = function(shape, rng) return core.rand(shape, { rng = rng, dtype = "f64" }) * 1.7 + 0.3 end,
  integer = function(shape, rng) return core.randint(-3, 3, shape, { rng = rng }) end,
  columns = function(shape, rng) return core.randn(shape, { rng = rng }):channels_last() end,
  bool = function(shape, rng) return core.randint(0, 1, shape, { rng = rng }):to "bool" end,
  index = function(shape, rng, limit) return core.randint(1, limit, shape, { rng = rng }) end,
  beyond = function(shape, _, limit) return core.full(shape, limit + 1, { dtype = "i64" }) end,
}

function samples.is_float(x) return x:dtype() == "f32" or x:dtype() == "f64" end

--- The arguments of a case in row-major memory, and the places of the float tensors among them.
function samples.build(case, dtype)
  local rng, args, floats = core.rng(17), { n = #case }, {}
  local function put(holder, key, value)
    if samples.is_description(value) then
      local x = DRAW[value.kind](value.shape, rng, value.limit)
      if samples.is_float(x) then
        x = x:to(dtype) -- keeps the memory order
        floats[#floats + 1] = { holder = holder, key = key }
      end
      holder[key] = x
    elseif type(value) == "table" and samples.is_description(value[1]) then
      holder[key] = {}
      for i, inner in ipairs(value) do put(holder[key], i, inner) end
    elseif value ~= samples.NIL then
      holder[key] = value
    end
  end
  for i, value in ipairs(case) do put(args, i, value) end
  return args, floats
end

--- Call an op with the arguments of one of its cases.
function samples.call(op, case, args)
  local f = case.call or samples.ops[op.name].call
  if f then return f(core.op, table.unpack(args, 1, args.n)) end
  return core.op[op.name](table.unpack(args, 1, args.n))
end

return samples
