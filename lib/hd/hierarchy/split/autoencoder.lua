-- hd/hierarchy/split/autoencoder.lua: a learned level: a small network that makes a code of x and x of the code. What
-- the decoder misses is the residual level, so the hierarchy stays exact whatever has been learned.

local class = require "hd.class"
local check = require "hd.check"
local core = require "hd.core"
local nn = require "hd.nn"
local residual = require "hd.hierarchy.split.residual"

---@class hd.hierarchy.Autoencoder : hd.nn.Module
local Autoencoder = class("Autoencoder", nn.Module)

local function conv(o, from, to, kernel, stride)
  local Conv = o.dims == 1 and nn.Conv1d or nn.Conv2d
  return Conv(from, to, kernel, { stride = stride, padding = (kernel - 1) // 2 })
end

--- An encoder of two convolutions, one of which looks at squares of `factor`, and its mirror image.
---@param opts? table  channels (3), code: channels of the code (4), factor by which it is smaller (4), width (32),
---                    dims (2)
function Autoencoder:init(opts)
  local o = check.options("hierarchy.autoencoder", opts, { { "channels", "integer", 3 }, { "code", "integer", 4 },
    { "factor", "integer", 4 }, { "width", "integer", 32 }, { "dims", "integer", 2 } })
  local Conv = o.dims == 1 and nn.Conv1d or nn.Conv2d
  self.fold = Conv(o.channels, o.width, o.factor, { stride = o.factor })
  self.to_code = conv(o, o.width, o.code, 3, 1)
  self.from_code = conv(o, o.code, o.width, 3, 1)
  self.mix = conv(o, o.width, o.width, 3, 1)
  self.out = conv(o, o.width, o.channels, 3, 1)
end

--- x to its code.
---@param x hd.Tensor
---@return hd.Tensor
function Autoencoder:encode(x) return self.to_code(core.op.silu(self.fold(x))) end

--- A code to an x of the extents of `like`.
---@param code hd.Tensor
---@param like hd.Tensor
---@return hd.Tensor
function Autoencoder:decode(code, like)
  local h = core.op.silu(self.from_code(code))
  h = core.op.interpolate(h, { size = table.move(like:shape(), 3, like:dim(), 1, {}), mode = "nearest" })
  return self.out(core.op.silu(self.mix(h)))
end

--- The mean squared error of what comes back: minimise it before the levels are diffused.
---@param x hd.Tensor
---@return hd.Tensor
function Autoencoder:loss(x) return core.op.mse_loss(self:decode(self:encode(x), x), x) end

--- split and join of two levels: the code, and what the decoder misses.
---
---     local auto = hd.hierarchy.autoencoder { code = 4 }     -- train it with auto:loss(x)
---     local split, join = auto:levels("code", "rest")
---
---@param code string
---@param rest string
---@return function split
---@return function join
function Autoencoder:levels(code, rest)
  local split, join = residual.residual { names = { code, rest },
    down = function(x) return self:encode(x) end, up = function(z, like) return self:decode(z, like) end }
  local function still(fn)
    return function(x)
      local _ <close> = core.no_grad()
      return fn(x)
    end
  end
  return still(split), still(join)
end

class.guard(Autoencoder, { "encode", "decode", "loss", "levels" })

return Autoencoder
