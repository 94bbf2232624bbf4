-- hd/hierarchy/split/residual.lua: levels from any way down D and any way up U: z1 = D(x), z2 = x - U(z1). Laplacian
-- pyramids (Burt and Adelson 1983), smoothers, learned encoders; more numbers than x has. Also summaries of x.

local check = require "hd.check"
local core = require "hd.core"

local residual = {}

local function halve(x) return x:dim() == 3 and core.op.avg_pool1d(x, { 2 }) or core.op.avg_pool2d(x, { 2, 2 }) end

local function repeated(z, like)
  return core.op.interpolate(z, { size = table.move(like:shape(), 3, like:dim(), 1, {}), mode = "nearest" })
end

--- split and join of a residual hierarchy, exact for any D and U, and the projection that takes away what contradicts:
--- drawn levels need not be the split of any x. It sets z2 to z2 - U(D(U(z1) + z2) - z1), after which D(join(z)) = z1
--- where D(U(z)) = z, as it is for the means and repeats that are the default.
---
---     local split, join, project = hd.hierarchy.residual { names = { "small", "detail" } }
---     local H = hd.hierarchy.new { split = split, join = join, project = project, levels = ... }
---
---@param opts { names: string[], down: function?, up: function? }  names: coarse to fine, a step between any two; down
---  (x) -> z, default means of two (squares of two by two); up (z, x) -> a tensor of x's shape, default repeats
---@return fun(x: hd.Tensor): table<string, hd.Tensor>
---@return fun(z: table<string, hd.Tensor>): hd.Tensor
---@return fun(z: table<string, hd.Tensor>): table<string, hd.Tensor>
function residual.residual(opts)
  local o = check.options("hierarchy.residual", opts, {
    { "names", "table", required = true }, { "down", "callable", halve }, { "up", "callable", repeated },
  })
  local names = check.list("hierarchy.residual", "names", o.names, "string")
  if #names < 2 then
    check.fail("hierarchy.residual", "names is wrong: got %d, expected at least 2, coarse to fine", #names)
  end
  local function split(x)
    local z = {}
    for k = #names, 2, -1 do
      local smaller = o.down(x)
      z[names[k]] = x - o.up(smaller, x)
      x = smaller
    end
    z[names[1]] = x
    return z
  end
  local function join(z)
    local x = z[names[1]]
    for k = 2, #names do x = o.up(x, z[names[k]]) + z[names[k]] end
    return x
  end
  local function project(z)
    local x, out = z[names[1]], { [names[1]] = z[names[1]] }
    for k = 2, #names do
      local fine = z[names[k]]
      local above = o.up(x, fine)
      out[names[k]] = fine - o.up(o.down(above + fine) - x, fine)
      x = above + out[names[k]]
    end
    return out
  end
  return split, join, project
end

--- A split with more levels that say something of x (a plan, a code, a label map) and that join does not need.
---@param split function
---@param join function
---@param summaries table<string, function>  level name -> function of x
---@return fun(x: hd.Tensor): table<string, hd.Tensor>
---@return fun(z: table<string, hd.Tensor>): hd.Tensor
function residual.summary(split, join, summaries)
  check.arg("hierarchy.summary", "split", split, "callable")
  check.arg("hierarchy.summary", "join", join, "callable")
  for name, fn in next, check.arg("hierarchy.summary", "summaries", summaries, "table") do -- order free: any fault
    check.arg("hierarchy.summary", check.arg("hierarchy.summary", "a name", name, "string"), fn, "callable")
  end
  return function(x)
    local z = split(x)
    for name, fn in next, summaries do z[name] = fn(x) end -- order free: separate keys
    return z
  end, join
end

return residual
