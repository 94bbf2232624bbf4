-- hd/optim/init.lua: `hd.optim`, gathered.

local adam = require "hd.optim.adam"
local clip = require "hd.optim.clip"

return {
  Adam = adam.Adam,
  AdamW = adam.AdamW,
  SGD = require "hd.optim.sgd".SGD,
  EMA = require "hd.optim.ema".EMA,
  clip_grad_norm_ = clip.clip_grad_norm_,
  clip_grad_value_ = clip.clip_grad_value_,
  lr = require "hd.optim.lr",
}
