-- tests/lua/linalg_spec.lua: hd.linalg against closed forms and the reference back end.

local hd = require "hd"
local linalg = hd.linalg

local function message(fn, ...)
  local ok, text = pcall(fn, ...)
  assert.is_false(ok)
  return tostring(text)
end

local function distance(a, b) return (a - b):norm():item() / math.max(1, b:norm():item()) end

local function random_symmetric(n, dtype)
  local a = hd.randn({ n, n }, { dtype = dtype, rng = hd.rng(n) })
  return a + a:transpose(1, 2)
end

describe("eigh", function()
  after_each(function()
    hd.backend "cpu"
    hd.threads(1)
  end)

  it("knows a matrix of two rows", function()
    local values, vectors = linalg.eigh(hd.tensor({ { 2, 1 }, { 1, 2 } }, { dtype = "f64" }))
    assert.is_true(distance(values, hd.tensor({ 1, 3 }, { dtype = "f64" })) < 1e-15)
    local expected = hd.full({ 2, 2 }, math.sqrt(0.5), { dtype = "f64" })
    assert.is_true(distance(vectors:abs(), expected) < 1e-15)
  end)

  it("gives rising values and orthonormal columns that make the matrix again", function()
    for _, dtype in ipairs { "f32", "f64" } do
      for _, n in ipairs { 1, 2, 7, 33, 70 } do
        local x = random_symmetric(n, dtype)
        local values, vectors = linalg.eigh(x)
        local limit = dtype == "f64" and 1e-13 or 2e-6
        assert.are.equal(dtype, values:dtype())
        assert.is_true(distance((vectors * values):matmul(vectors:transpose(1, 2)), x) < limit)
        local unit = vectors:transpose(1, 2):matmul(vectors)
        assert.is_true(distance(unit, hd.eye(n, { dtype = dtype })) < limit)
        local list = values:totable()
        for i = 2, n do assert.is_true(list[i - 1] <= list[i]) end
      end
    end
  end)

  it("agrees with the reference back end", function()
    for _, n in ipairs { 0, 1, 5, 24 } do
      local x = random_symmetric(n, "f64")
      hd.backend "cpu"
      local values, vectors = linalg.eigh(x)
      hd.backend "ref"
      local of_ref, vectors_of_ref = linalg.eigh(x)
      assert.is_true(distance(values, of_ref) < 1e-13)
      assert.is_true(distance(vectors:abs(), vectors_of_ref:abs()) < 1e-9)
    end
  end)

  it("reads the lower triangle of any view, and leaves it as it is", function()
    local whole = random_symmetric(9, "f64")
    local values = linalg.eigh(whole)
    local lower = whole:clone()
    for i = 1, 9 do
      for j = i + 1, 9 do lower:set(i, j, 99) end
    end
    local before = lower:clone()
    assert.is_true(linalg.eigh(lower):equal(values))
    assert.is_true(linalg.eigh(whole:transpose(1, 2)):equal(values))
    assert.is_true(lower:equal(before))
  end)

  it("has the same bits with any number of threads", function()
    local x = random_symmetric(150, "f64")
    local values, vectors = linalg.eigh(x)
    hd.threads(3)
    local again, same = linalg.eigh(x)
    assert.is_true(values:equal(again) and vectors:equal(same))
  end)

  it("keeps many zeros and repeated values apart from none", function()
    local values = linalg.eigh(hd.zeros { 6, 6 })
    assert.are.same({ 0, 0, 0, 0, 0, 0 }, values:totable())
    values = linalg.eigh(hd.eye(5))
    assert.are.same({ 1, 1, 1, 1, 1 }, values:totable())
  end)

  it("refuses what is no symmetric matrix of finite numbers", function()
    assert.truthy(message(linalg.eigh, hd.zeros { 2, 3 }):find("eigh: x is no square matrix", 1, true))
    assert.truthy(message(linalg.eigh, hd.zeros { 4 }):find("eigh", 1, true))
    assert.truthy(message(linalg.eigh, hd.full({ 2, 2 }, 0 / 0)):find("not finite", 1, true))
    assert.truthy(message(linalg.eigh, hd.tensor { { 1, 2 }, { 2, 1 } }:to "i64"):find("eigh", 1, true))
    assert.truthy(message(linalg.eigh, 3):find("expected a tensor", 1, true))
  end)
end)

describe("sqrtm", function()
  it("gives the symmetric root", function()
    local a = hd.randn({ 12, 5 }, { dtype = "f64", rng = hd.rng(3) }) -- of rank 5
    local x = a:matmul(a:transpose(1, 2))
    local root = linalg.sqrtm(x)
    assert.is_true(distance(root:matmul(root), x) < 1e-13)
    assert.is_true(distance(root:transpose(1, 2), root) < 1e-13)
  end)
end)
