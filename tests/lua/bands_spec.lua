-- Bands of sound: MDCT and wavelet packets are orthonormal and undone exactly, and tones land in their band.

local hd = require "hd"
local fails = require "tests.lua.fails"
local mdct, packet = hd.hierarchy.mdct, hd.hierarchy.packet

local MAPS = {
  ["MDCT, sine"] = { function(x) return mdct.forward(x, 8) end, function(z) return mdct.inverse(z, 8) end },
  ["MDCT, KBD"] = { function(x) return mdct.forward(x, 8, "kbd") end,
    function(z) return mdct.inverse(z, 8, "kbd") end },
  ["MDCT of one bin"] = { function(x) return mdct.forward(x, 1) end, function(z) return mdct.inverse(z, 1) end },
}
for _, family in ipairs(hd.hierarchy.wavelet.families) do
  MAPS["packets, " .. family] = { function(x) return packet.forward(x, 3, family) end,
    function(z) return packet.inverse(z, 3, family) end }
end

for name, map in pairs(MAPS) do -- order free: each is a group of its own
  describe(name, function()
    it("is orthonormal", function()
      local z = map[1](hd.eye(64, { dtype = "f64" }):view(64, 1, 64)):reshape(64, 64)
      assert.is_true((z:matmul(z:transpose(1, 2)) - hd.eye(64, { dtype = "f64" })):abs():amax():item() < 1e-9)
    end)

    it("is undone, for several signals and channels", function()
      for dtype, most in pairs { f32 = 1e-5, f64 = 1e-9 } do -- order free: both must hold
        for _, shape in ipairs { { 1, 1, 16 }, { 3, 2, 128 }, { 2, 1, 8192 } } do
          local x = hd.randn(shape, { dtype = dtype })
          local z = map[1](x)
          assert.are.equal(x:numel(), z:numel())
          assert.is_true((map[2](z) - x):norm():item() <= most * x:norm():item())
        end
      end
    end)
  end)
end

describe("a tone lands in its band", function()
  -- bands of 500 Hz at 8 kHz: where most of the energy is, counted from 1, and its share with the neighbours
  local function band_of(z)
    local energy = z:square():mean(3)[1]
    local at = energy:argmax():item()
    local first, last = math.max(1, at - 1), math.min(8, at + 1)
    return at, energy:narrow(1, first, last - first + 1):sum():item() / energy:sum():item()
  end

  it("in order of frequency", function()
    for i = 1, 8 do
      local x = (hd.arange(0, 4095, { dtype = "f64" }) * (2 * math.pi * (500 * i - 250) / 8000)):sin():view(1, 1, 4096)
      for _, z in ipairs { mdct.forward(x, 8), mdct.forward(x, 8, "kbd"), packet.forward(x, 3) } do
        local at, share = band_of(z)
        assert.are.equal(i, at)
        assert.is_true(share > 0.95, share)
      end
    end
  end)
end)

describe("mdct and packet", function()
  it("refuse what they cannot split at the user's line", function()
    fails("the length is wrong: got 20 samples, expected a multiple of 8, 16 at least", mdct.forward,
      hd.zeros { 1, 1, 20 }, 8)
    fails("the length is wrong: got 8 samples", mdct.forward, hd.zeros { 1, 1, 8 }, 8)
    fails("bins is wrong: got 0", mdct.forward, hd.zeros { 1, 1, 8 }, 0)
    fails("window is wrong: got 'hann'", mdct.forward, hd.zeros { 1, 1, 16 }, 8, "hann")
    fails("expected a multiple of 8 channels", mdct.inverse, hd.zeros { 1, 9, 4 }, 8)
    fails("expected a multiple of 8", packet.forward, hd.zeros { 1, 1, 20 }, 3)
    fails("steps is wrong: got 13", packet.forward, hd.zeros { 1, 1, 20 }, 13)
    fails("family is wrong", packet.forward, hd.zeros { 1, 1, 16 }, 2, "db9")
    fails("expected numbers [n,channels,frames]", packet.inverse, hd.zeros { 16 }, 2)
  end)
end)
