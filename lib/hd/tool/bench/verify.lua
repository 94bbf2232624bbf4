-- hd/tool/bench/verify.lua: whether both sides compute the same: the peer writes its weights, data, the random draws of
-- some train steps and the losses of these steps; the same steps are repeated here from the same start.
-- Called by: child.lua, session.lua, bench.lua.

local hd = require "hd"
local models = require "hd.tool.bench.models"
local process = require "hd.tool.bench.process"

local verify = {}

--- How far a loss may be from the peer's, as a share of it.
verify.limit = 1e-4

--- Whether a model trains, so that it has losses.
---@param name string
---@return boolean
function verify.applies(name)
  local w = models.find(name)
  return w ~= nil and w.kind ~= "sample"
end

-- The tensors of a file whose names begin with a prefix, by the rest of their names.
local function under(tensors, prefix)
  local found = {}
  for name, x in next, tensors do -- order free: separate keys
    if name:sub(1, #prefix) == prefix then found[name:sub(#prefix + 1)] = x end
  end
  return found
end

-- The largest difference of two lists, as a share of the second's.
local function difference(ours, theirs)
  local worst = 0
  for i, loss in ipairs(theirs) do
    local d = math.abs(ours[i] - loss) / math.abs(loss)
    if d ~= d or d == math.huge then error(("step %d: losses are %g and %g"):format(i, ours[i], loss), 0) end
    worst = math.max(worst, d)
  end
  return worst
end

--- Repeat the steps in a file that the peer has exported: tensors weight.NAME, data, step.I.NAME (what is drawn in step
--- I) and losses.
---@param name string  of the model
---@param path string  a .safetensors file
---@return table  name, losses, peer_losses, difference
function verify.replay(name, path)
  local w, tensors = models.find(name), assert(hd.load(path))
  local net = w.net()
  net:load_state_dict(under(tensors, "weight."))
  local i = 0
  local step = models.step(w, net, tensors.data, function()
    i = i + 1
    return under(tensors, ("step.%d."):format(i))
  end)
  local losses, theirs = {}, tensors.losses:totable()
  for k = 1, #theirs do losses[k] = step():item() end
  return { name = name, losses = losses, peer_losses = theirs, difference = difference(losses, theirs) }
end

--- Export and replay, each in a process of its own: the record of replay, or nil and what went wrong.
---@param name string
---@param ours string     command that runs the model here
---@param theirs string   command of the peer
---@param steps integer
---@return table?
---@return string? message
function verify.compare(name, ours, theirs, steps)
  local path = os.tmpname()
  local file = path .. ".safetensors"
  local function remove()
    os.remove(path)
    os.remove(file)
  end
  local _ <close> = setmetatable({}, { __close = remove }) -- at Ctrl-C too
  local list, message = process.run(("%s --export %s --steps %d --out %s"):format(theirs, name, steps, file))
  if list then list, message = process.records(("%s --replay %s"):format(ours, file)) end
  return list and list[1], message
end

return verify
