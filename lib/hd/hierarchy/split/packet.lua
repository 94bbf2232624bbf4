-- hd/hierarchy/split/packet.lua: wavelet packets of signals: every band is halved again, `steps` times, into 2^steps
-- bands of equal width, each with so many times fewer numbers. Orthonormal, as the wavelet is.
-- Sources: Coifman and Wickerhauser 1992; Wickerhauser 1994 on the order of the bands: above a high-pass filter
-- frequencies run backwards.

local check = require "hd.check"
local core = require "hd.core"
local wavelet = require "hd.hierarchy.split.wavelet"

local packet = {}

local function check_input(where, x, steps, family)
  check.arg(where, "x", x, "tensor")
  steps = check.arg(where, "steps", steps, "integer")
  check.one_of(where, "family", family, wavelet.families)
  if x:dim() ~= 3 or x:dtype():sub(1, 1) ~= "f" then
    check.fail(where, "x is wrong: got %s, expected numbers [n,channels,frames]", check.show(x))
  end
  if steps < 0 or steps > 12 then check.fail(where, "steps is wrong: got %d, expected 0 to 12", steps) end
  return steps
end

-- Which of `bands` bands of each of c channels run backwards: [c bands, 1].
local function backward(c, bands)
  local list = {}
  for i = 0, c * bands - 1 do list[i + 1] = i % bands % 2 end
  return core.tensor(list, { dtype = "u8" }):ne(0):view(c * bands, 1)
end

--- Signals as bands over time, from low to high.
---@param x hd.Tensor       [n, c, t], t a multiple of 2^steps
---@param steps integer
---@param family? string    "db8" (default): the longer, the less the bands overlap
---@return hd.Tensor        [n, c 2^steps, t / 2^steps]
function packet.forward(x, steps, family)
  family = family or "db8"
  steps = check_input("packet.forward", x, steps, family)
  local n, c = x:size(1), x:size(2)
  if x:size(3) < 1 or x:size(3) % (1 << steps) ~= 0 then
    check.fail("packet.forward", "the length is wrong: got %d samples, expected a multiple of %d", x:size(3),
      1 << steps)
  end
  for i = 0, steps - 1 do
    local low, high = wavelet.down(x, family)
    local back = backward(c, 1 << i)
    local first, second = core.op.where(back, high, low), core.op.where(back, low, high)
    x = core.op.cat({ first:unsqueeze(3), second:unsqueeze(3) }, 3):reshape(n, c << (i + 1), low:size(3))
  end
  return x
end

--- The inverse of packet.forward.
---@param z hd.Tensor       [n, c 2^steps, t]
---@param steps integer
---@param family? string
---@return hd.Tensor        [n, c, t 2^steps]
function packet.inverse(z, steps, family)
  family = family or "db8"
  steps = check_input("packet.inverse", z, steps, family)
  local n, channels = z:size(1), z:size(2)
  if channels < 1 or channels % (1 << steps) ~= 0 then
    check.fail("packet.inverse", "z is wrong: got %d channels, expected a multiple of %d", channels, 1 << steps)
  end
  local c = channels >> steps
  for i = steps - 1, 0, -1 do
    local pair = z:reshape(n, c << i, 2, z:size(3))
    local first, second, back = pair:select(3, 1), pair:select(3, 2), backward(c, 1 << i)
    z = wavelet.up(core.op.where(back, second, first), core.op.where(back, first, second), family)
  end
  return z
end

return packet
