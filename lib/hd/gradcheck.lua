-- hd/gradcheck.lua: gradients by the tape against central differences.
-- Calls: core. Called by: tests, users. Source: the tolerances of PyTorch's gradcheck.

local check = require "hd.check"
local core = require "hd.core"
local gradcheck = {}

-- Central difference of the scalar f() with respect to element i of the flat view of x.
local function difference(f, flat, i, eps)
  local value = flat[i]
  flat[i] = value + eps
  local above = f()
  flat[i] = value - eps
  local below = f()
  flat[i] = value
  return (above - below) / (2 * eps)
end

--- Compare the gradients of fn(table.unpack(inputs)) with central differences, element by element.
--- The result of fn is weighted with fixed random numbers, so that every element of it counts differently.
---@param fn fun(...: hd.Tensor): hd.Tensor
---@param inputs hd.Tensor[]  f64 row-major; those with requires_grad are checked
---@param opts? {eps?: number, atol?: number, rtol?: number}  defaults 1e-6, 1e-5, 1e-3
---@return boolean ok
---@return string? message  which input and element differ, and by how much
function gradcheck.gradcheck(fn, inputs, opts)
  check.arg("gradcheck", "fn", fn, "callable")
  for i, x in ipairs(check.list("gradcheck", "inputs", inputs, "tensor")) do
    if x:requires_grad() and x:dtype() ~= "f64" then
      check.fail("gradcheck", "input %d is %s, expected f64: differences of f32 are too coarse", i, x:dtype())
    end
  end
  local o = check.options("gradcheck", opts,
    { { "eps", "number", 1e-6 }, { "atol", "number", 1e-5 }, { "rtol", "number", 1e-3 } })
  local eps, atol, rtol = o.eps, o.atol, o.rtol
  local weight
  local function weighted()
    local y = check.arg("gradcheck", "the result of fn", fn(table.unpack(inputs)), "tensor")
    weight = weight or core.randn(y:shape(), { dtype = y:dtype(), rng = core.rng(1, 77) })
    return (y * weight):sum()
  end
  for _, x in ipairs(inputs) do x:set_grad(nil) end
  weighted():backward()
  local function value() return core.no_grad(weighted):item() end
  for k, x in ipairs(inputs) do
    if x:is_leaf() and x:requires_grad() then
      local grad = x:grad()
      local analytic = grad and grad:reshape(-1) or core.zeros(x:numel(), { dtype = "f64" })
      local flat = x:detach():view(-1)
      for i = 1, x:numel() do
        local numeric, exact = difference(value, flat, i, eps), analytic[i]
        if not (math.abs(numeric - exact) <= atol + rtol * math.abs(numeric)) then
          return false, ("gradcheck: input %d, element %d: got %.9g by the tape, expected %.9g by differences"):format(
            k, i, exact, numeric)
        end
      end
    end
  end
  return true
end

return gradcheck
