-- hd/run/guard.lua: what a run does about losses and gradients that are not finite numbers.
-- The optimizers and averages of the run's state ask the guard before they change anything; so a loop of
-- `loss:backward(); opt:step()` is guarded as it stands. Looked at are the value that backward was called on and the
-- norm of the gradients of the optimizer that is about to step: that which clip_grad_norm_ has just measured, else one
-- pass over the gradients. Optimizers outside of a run's state do as PyTorch's: they apply what they are given.
--
--   stop      an error at the step's line; nothing has changed; state and batch are saved beside the checkpoint
--   skip      the step counts, but changes no weight, optimizer or average. Bit-exact on resume
--   rollback  when the step ends, the state goes back to the last checkpoint. Batches and the default generator go on,
--             so that other batches and draws follow, and a checkpoint is written at once. Which checkpoint is the last
--             one depends on the clock, so two runs that roll back have the same bits only with save_every = 0
--
-- Losses and norms far above those of the last 128 steps are told of; that changes nothing.
-- Calls: core, hd.check, hd.class, hd.optim.clip, run/checkpoint. Called by: hd.run, hd.optim.

local core = require "hd.core"
local class = require "hd.class"
local check = require "hd.check"
local checkpoint = require "hd.run.checkpoint"
local clip = require "hd.optim.clip"
local EMA = require "hd.optim.ema".EMA
local Module = require "hd.nn.module".Module
local Optimizer = require "hd.optim.optimizer"

local SKIPS = 10      -- so many steps skipped in a row end the run
local ROLLBACKS = 3   -- so many within WINDOW steps
local WINDOW = 128    -- steps that outliers are compared with
local OUTLIER = 6     -- standard deviations above their mean

local function is_finite(v) return v == v and v ~= math.huge and v ~= -math.huge end

-- nan and not -nan, whatever its sign
local function show(v) return v ~= v and "nan" or ("%.6g"):format(v) end

-- "loss nan and gradient norm 3.1"
local function show_both(loss, norm)
  local texts = {}
  if loss then texts[1] = "loss " .. show(loss) end
  if norm then texts[#texts + 1] = "gradient norm " .. show(norm) end
  return table.concat(texts, " and ")
end

-- Outliers ---------------------------------------------------------------------------------------------------------

-- How many standard deviations v lies above the mean of the last WINDOW values, which it then joins; 0 until there are
-- so many. Source: the outlier detector of llm.c.
local function z_score(window, v)
  local z = 0
  if #window == WINDOW then
    local sum, squares = 0, 0
    for _, x in ipairs(window) do sum = sum + x end
    local mean = sum / WINDOW
    for _, x in ipairs(window) do squares = squares + (x - mean) ^ 2 end
    local deviation = math.sqrt(squares / WINDOW)
    z = deviation > 0 and (v - mean) / deviation or 0
  end
  window.at = window.at % WINDOW + 1
  window[window.at] = v
  return z
end

---@class hd.run.Guard
local Guard = class "hd.run.Guard"

---@param run hd.Run
---@param policy string  "stop", "skip" or "rollback"
function Guard:init(run, policy)
  self.run, self.policy = run, policy
  self.windows = { { name = "the loss", at = 0 }, { name = "the gradient norm", at = 0 } }
  self.steps, self.told, self.rollbacks = 0, -WINDOW, {}
  self.in_row, self.skipped = 0, 0
end

-- Tell of a value far above those before it, once in WINDOW steps.
function Guard:tell_outliers(...)
  for i, window in ipairs(self.windows) do
    local v = select(i, ...)
    local z = v and z_score(window, v) or 0
    if z > OUTLIER and self.steps - self.told >= WINDOW then
      self.told = self.steps
      self.run:say(("run: step %d: %s is %s, %.1f standard deviations above the mean of the last %d steps"):format(
        self.run.current, window.name, show(v), z, WINDOW))
    end
  end
end

-- Arming and asking ------------------------------------------------------------------------------------------------

-- Call fn(path, object) for the objects of a state, sorted by name.
local function each_object(tree, path, fn)
  local names = {}
  for name in next, tree do names[#names + 1] = name end -- order free: sorted below
  table.sort(names, function(a, b) return tostring(a) < tostring(b) end)
  for _, name in ipairs(names) do
    local value, below = tree[name], path == "" and tostring(name) or path .. "." .. tostring(name)
    if type(value) == "table" then
      if getmetatable(value) then fn(below, value) else each_object(value, below, fn) end
    end
  end
end

--- Have the optimizers and averages of the run's state ask this guard.
function Guard:arm()
  each_object(self.run.state, "", function(_, object)
    if class.is(object, Optimizer) or class.is(object, EMA) then object.guard = self end
  end)
end

--- A step begins: with a batch, from a place that can be gone back to.
---@param place table  step, generator and batches as checkpoints hold them, before the batch was drawn
---@param batch table  { x =, labels = }: what the script was given
function Guard:begin_step(place, batch)
  self.steps, self.place, self.batch = self.steps + 1, place, batch
  self.active, self.refused, self.applied = true, false, false
  core.backward_value() -- that of an earlier step, or of a test between them
end

local function norm_of(optimizer)
  local norm = clip.measured(optimizer.numbered)
  if norm then return norm end
  local grads = {}
  for _, p in ipairs(optimizer.numbered) do grads[#grads + 1] = p:grad() end
  return core.grad_norm(grads)
end

--- May this optimizer change its parameters now? Outside of a run's steps always.
---@param optimizer hd.optim.Optimizer
---@return boolean
function Guard:allows(optimizer)
  if not self.active or self.refused then return not self.active end
  local loss, norm = core.backward_value(), norm_of(optimizer)
  if is_finite(loss or 0) and is_finite(norm) then
    self:tell_outliers(loss, norm)
    self.applied = true
    return true
  end
  self:refuse(loss, norm)
  return false
end

--- Was the step at hand refused? Then averages stay as they are.
---@return boolean
function Guard:refuses() return self.active and self.refused end

--- A loss that the script logs.
---@param loss number
function Guard:check_loss(loss)
  if not is_finite(loss) and not self:refuses() then self:refuse(loss) end
end

-- Refusing ----------------------------------------------------------------------------------------------------------

-- The first parameters whose gradients are not finite, by their paths in the state, and their number.
local function odd_parameters(state)
  local first, count, seen = {}, 0, {}
  each_object(state, "", function(path, object)
    if not class.is(object, Module) then return end
    for name, p in object:named_parameters() do
      local g = p:grad()
      if g and not seen[p] and not is_finite(core.grad_norm { g }) then
        count = count + 1
        if count <= 3 then first[count] = path .. "." .. name end
      end
      seen[p] = true
    end
  end)
  return first, count
end

-- Tensors alone, so that whatever a script's batches are can be saved.
local function tensors_of(value)
  if check.is_tensor(value) then return value end
  if type(value) ~= "table" or getmetatable(value) then return nil end
  local out = {}
  for key, v in next, value do out[key] = tensors_of(v) end -- order free: separate keys
  return out
end

-- Write the state from before this step, with the batch; a sentence on it.
local function save_evidence(self, step)
  local path = ("%s/nan_step_%06d.safetensors"):format(self.run.out, step)
  local tree, texts = self.run:parts(self.place)
  tree.batch = tensors_of(self.batch)
  local fine, done, message = pcall(checkpoint.save, path, tree, texts)
  if fine and done then return ("state and batch are in '%s'"):format(path) end
  return ("state and batch could not be saved: %s"):format(tostring(message or done))
end

local function stop(self, loss, norm, reason)
  local run, step = self.run, self.run.current or self.run.step
  local first, count = odd_parameters(run.state)
  local lines = {
    ("step %d is not finite%s: got %s, expected finite numbers"):format(step, reason, show_both(loss, norm)),
    (self.applied and "" or "nothing was changed; ") .. save_evidence(self, step),
    run.saved_step and ("the last checkpoint is of step %d: '%s'"):format(run.saved_step, run.path)
      or "there is no checkpoint yet",
    "hint: `hdlua --anomaly SCRIPT --resume` names the operation that makes it;",
    'lower the rate, clip the gradients, or go on by hd.run.new { on_nan = "skip" or "rollback" }',
  }
  if count > 0 then
    table.insert(lines, 2, ("gradients of %d parameters are not finite: %s%s"):format(count, table.concat(first, ", "),
      count > #first and " ..." or ""))
  end
  run:event("stop", { reason = show_both(loss, norm) }, step)
  check.fail("run", "%s", table.concat(lines, "\n  "))
end

-- Why this step is one refusal too many for the policy; nil where it is not.
local function too_many(self)
  if self.policy == "skip" then
    return self.in_row >= SKIPS and (", the %dth in a row"):format(SKIPS) or nil
  end
  local earlier = self.rollbacks[#self.rollbacks - ROLLBACKS + 1]
  return earlier and self.steps - earlier < WINDOW and (", %d times within %d steps"):format(ROLLBACKS, WINDOW) or nil
end

--- Refuse the step at hand: stop with an error, or note what its end has to do.
---@param loss number?
---@param norm number?
function Guard:refuse(loss, norm)
  local run, step = self.run, self.run.current or self.run.step
  self.refused = true
  if self.policy == "stop" or not self.active or (self.policy == "skip" and self.applied) then
    return stop(self, loss, norm, "")
  end
  if self.policy == "skip" then
    self.in_row, self.skipped = self.in_row + 1, self.skipped + 1
  else
    self.rollbacks[#self.rollbacks + 1] = self.steps
  end
  local reason = too_many(self)
  if reason then stop(self, loss, norm, reason) end
  run:event(self.policy, { reason = show_both(loss, norm) }, step)
  run:say(("run: step %d is not finite: got %s: %s"):format(step, show_both(loss, norm),
    self.policy == "skip" and "it is skipped" or "going back to the last checkpoint"))
end

--- The step at hand has ended. Gives the steps that the state has done now where it went back, nil elsewhere.
---@return integer? step
function Guard:end_step()
  self.batch, self.place = nil, nil
  if not self.refused then
    self.in_row = 0
  elseif self.policy == "rollback" then
    local found, message = checkpoint.load(self.run.path)
    if not found then check.fail("run", "cannot go back: %s", message or "the checkpoint is gone") end
    checkpoint.restore(self.run.state, found.tree.state)
    self.run:say(("run: back at step %d"):format(found.tree.run.step))
    return found.tree.run.step
  end
end

--- The loop was left: optimizers are on their own again.
function Guard:rest() self.active, self.batch, self.place = false, nil, nil end

--- What a checkpoint keeps, and how it comes back.
function Guard:state_dict() return { in_row = self.in_row, skipped = self.skipped } end

function Guard:load_state_dict(state) self.in_row, self.skipped = state.in_row, state.skipped end

return Guard
