-- hd/optim/clip.lua: limits on gradients.

local check = require "hd.check"
local core = require "hd.core"

-- The last norm, so that it is not measured twice in a step. First parameter -> of which parameters, and after how many
-- calls of backward.
local norms = setmetatable({}, { __mode = "k" })

-- The norm that clip_grad_norm_ measured of exactly these parameters since the last backward; nil where it did not.
local function measured(params)
  local last = norms[params[1]]
  if not last or last.backwards ~= core.backward_count() or #params ~= #last.params then return nil end
  for i, p in ipairs(params) do
    if p ~= last.params[i] then return nil end
  end
  return last.norm
end

local function gradients(where, params)
  local list = {}
  for _, p in ipairs(check.is_tensor(params) and { params } or check.list(where, "params", params, "tensor")) do
    list[#list + 1] = p:grad()
  end
  return list
end

--- Scale all gradients so that their common l2 norm is at most max_norm. Returns the norm before; where that is not
--- finite, the gradients stay as they are.
---@param params hd.Tensor[]
---@param max_norm number
---@return number norm
local function clip_grad_norm_(params, max_norm)
  check.arg("clip_grad_norm_", "max_norm", max_norm, "number")
  local grads = gradients("clip_grad_norm_", params)
  if #grads == 0 then return 0.0 end
  local _ <close> = core.no_grad()
  local norm = core.grad_norm(grads)
  local list = check.is_tensor(params) and { params } or params
  norms[list[1]] = { params = list, norm = norm, backwards = core.backward_count() }
  if norm > max_norm and norm < math.huge then
    for _, g in ipairs(grads) do g:mul_(max_norm / (norm + 1e-6)) end
  end
  return norm
end

--- Limit every element of every gradient to [-value, value].
---@param params hd.Tensor[]
---@param value number
local function clip_grad_value_(params, value)
  check.arg("clip_grad_value_", "value", value, "number")
  local _ <close> = core.no_grad()
  for _, g in ipairs(gradients("clip_grad_value_", params)) do g:clamp_(-value, value) end
end

return { clip_grad_norm_ = clip_grad_norm_, clip_grad_value_ = clip_grad_value_, measured = measured }
