-- hd/hierarchy/bypass.lua: a network whose means over all positions are predicted by a path of their own: large
-- pictures come out with a colour cast where a network must get them right by many small numbers.
-- Source: Deck and Bischoff 2023 (arXiv 2306.15832), the mean bypass. Called by: hierarchy/models.

local class = require "hd.class"
local core = require "hd.core"
local nn = require "hd.nn"
local weights = require "hd.nn.weights"

---@class hd.hierarchy.MeanBypass : hd.nn.Module
local MeanBypass = class("MeanBypass", nn.Module)

local WIDTH = 64

-- net: from [n, channels, ...] to the same shape.
function MeanBypass:init(net, channels)
  self.net = net
  self.time = nn.Timesteps(32)
  self.first, self.last = nn.Linear(channels + 32, WIDTH), nn.Linear(WIDTH, channels)
  weights.zero(self.last)
end

function MeanBypass:forward(x, told, cond)
  local y, own = self.net(x, told, cond), type(told) == "table" and told[1] or told
  local n, c = x:size(1), x:size(2)
  local time = type(own) == "number" and core.full({ n }, own) or own
  local function means(z) return z:reshape(n, c, -1):mean(3) end
  local mean = self.last(core.op.silu(self.first(core.op.cat({ means(x), self.time(time) }, 2)))) - means(y)
  local shape = { n, c }
  for d = 3, x:dim() do shape[d] = 1 end
  return y + mean:view(shape)
end

return MeanBypass
