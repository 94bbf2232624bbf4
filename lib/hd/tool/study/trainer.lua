-- hd/tool/study/trainer.lua: the training that all arms of a study share: AdamW with warm-up and a cosine over the
-- budget, EMA, gradients clipped to 1. Called by: compare, compare_text.

local hd = require "hd"

local trainer = {}

-- The rate's factor: a hundred steps of warm-up, then a cosine over the budget down to 2 %.
local function rate(step, share)
  return math.min(1, step / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * math.min(1, share))))
end

--- Shares of the budget at which an arm is measured: ..., 1/4, 1/2, 1.
---@param points integer
---@return number[]
function trainer.shares(points)
  local list = {}
  for i = points - 1, 0, -1 do list[#list + 1] = 0.5 ^ i end
  return list
end

--- The training of an arm's networks, step by step, and how much of the budget it has used.
---@param study table   H, set, batch, lr, ema, minutes (or arm.steps), classes, flip
---@param arm table     options: of H:models; H: its own hierarchy
---@param seed integer
---@return table  models, ema, steps, seconds, share(), step()
function trainer.new(study, arm, seed)
  hd.seed(seed)
  local H = arm.H or study.H
  local models = H:models(arm.options)
  local params = models:parameters()
  local opt = hd.optim.AdamW(params, { lr = study.lr })
  local ema = hd.optim.EMA(models, { decay = study.ema })
  local batches = study.set:batches { size = study.batch, seed = seed, flip = study.flip }
  local state = { models = models, ema = ema, steps = 0, seconds = 0 }
  function state.share()
    if study.minutes then return state.seconds / (60 * study.minutes) end
    return state.steps / arm.steps
  end
  function state.step()
    local _ <close> = hd.scope()
    local start, share = hd.clock(), state.share()
    for _, group in ipairs(opt.groups) do group.lr = study.lr * rate(state.steps + 1, share) end
    local x, labels = batches()
    local loss = H:loss(models, x, study.classes and { labels = labels })
    opt:zero_grad()
    loss:backward()
    hd.optim.clip_grad_norm_(params, 1)
    opt:step()
    ema:update()
    state.steps, state.seconds = state.steps + 1, state.seconds + hd.clock() - start
  end
  return state
end

return trainer
