-- hd.image: PNG and JPEG in, PNG out, resizing, grids.

local hd = require "hd"
local fails = require "tests.lua.fails"
local robust = require "tests.lua.robust"
local rounds = require "tests.lua.rounds"

local file

before_each(function() file = os.tmpname() .. ".png" end)
after_each(function()
  os.remove(file)
  os.remove((file:gsub("%.png$", "")))
end)

describe("hd.image.save and load", function()
  it("keep bytes exactly", function()
    for channels = 1, 4 do
      local x = hd.arange(1, channels * 35):view(channels, 5, 7)
      x = hd.tensor(x:totable(), { dtype = "u8" })
      assert.is_true(hd.image.save(file, x))
      local back = assert(hd.image.load(file, { channels = 0, dtype = "u8" }))
      assert.are.same({ channels, 5, 7 }, back:shape())
      assert.is_true(back:equal(x))
    end
  end)

  it("map -1 and 1 to black and white and clip what is outside", function()
    local x = hd.tensor { { { -1, 1, 0 }, { -9, 9, 0 / 0 } } }
    assert(hd.image.save(file, x))
    local back = assert(hd.image.load(file, { channels = 1, dtype = "u8" }))
    assert.are.same({ { { 0, 255, 128 }, { 0, 255, 0 } } }, back:totable())
    local f = assert(hd.image.load(file, { channels = 1 }))
    assert.are.equal("f32", f:dtype())
    assert.are.equal(-1, f:get(1, 1, 1))
    assert.are.equal(1, f:get(1, 1, 2))
  end)

  it("turn grey into RGB and take [height, width]", function()
    assert(hd.image.save(file, hd.tensor({ { 3, 200 } }, { dtype = "u8" })))
    local x = assert(hd.image.load(file, { dtype = "u8" }))
    assert.are.same({ { { 3, 200 } }, { { 3, 200 } }, { { 3, 200 } } }, x:totable())
  end)

  it("write what a view shows", function()
    local x = hd.tensor({ { { 1, 2, 3 }, { 4, 5, 6 } } }, { dtype = "u8" })
    assert(hd.image.save(file, x:transpose(2, 3)))
    local back = assert(hd.image.load(file, { channels = 1, dtype = "u8" }))
    assert.are.same({ { { 1, 4 }, { 2, 5 }, { 3, 6 } } }, back:totable())
  end)

  it("give nil and a message where the world fails", function()
    local x, message = hd.image.load "/no/such.png"
    assert.is_nil(x)
    assert.matches("No such file", message, 1, true)
    local done
    done, message = hd.image.save("/no/such/folder.png", hd.zeros(3, 2, 2))
    assert.is_nil(done)
    assert.matches("cannot save", message, 1, true)
  end)

  it("raise on misuse", function()
    fails("ends in .png", hd.image.save, "x.jpg", hd.zeros(3, 2, 2))
    fails("got f32 [3,2,2,2]", hd.image.save, file, hd.zeros(3, 2, 2, 2))
    fails("got [5,2,2]", hd.image.save, file, hd.zeros(5, 2, 2))
    fails("expected", hd.image.save, file, hd.zeros(3, 0, 2))
    fails("got i64", hd.image.save, file, hd.zeros(3, 2, 2, { dtype = "i64" }))
    fails("did you mean 'channels'?", hd.image.load, file, { chanels = 3 })
    fails("expected 0 to 4", hd.image.load, file, { channels = 5 })
    fails("option 'dtype'", hd.image.load, file, { dtype = "i64" })
  end)
end)

describe("odd and damaged pictures", function()
  -- Size and means of red, green, blue out of "128x64 RGB mean 1.00/2.00/3.00"; JPEG decoders differ by rounding.
  local function compare(entry, x, tolerance)
    local w, h, r, g, b = entry.reading:match "^(%d+)x(%d+) .*mean ([%d.]+)/([%d.]+)/([%d.]+)"
    if not w then return false end
    assert.are.same({ 3, tonumber(h), tonumber(w) }, x:shape(), entry.file)
    for c, expected in ipairs { tonumber(r), tonumber(g), tonumber(b) } do
      local mean = x[c]:to("f64"):mean():item()
      assert.is_true(math.abs(mean - expected) <= tolerance, ("%s: mean %g of channel %d, expected %g"):format(
        entry.file, mean, c, expected))
    end
    return true
  end

  local function read(path) return hd.image.load(path, { dtype = "u8" }) end

  it("in JPEG are decided as the list of odd files says", function()
    local n, reason = robust.decide("jpg", read, function(entry, x) compare(entry, x, 1.5) end)
    if not n then return pending(reason) end
    assert.are.equal(16, n)
  end)

  it("in PNG are decided as the list says, and give the bytes of the reference", function()
    local dir = file .. ".rgb"
    assert(os.execute("mkdir " .. dir))
    local expected = {}
    local n, reason = robust.decide("png", read, function(entry, x)
      if not compare(entry, x, 0.006) then return end
      -- rows of interleaved RGB, behind the 128 bytes of a .npy file's header
      assert(hd.save(dir .. "/x.npy", x:permute(2, 3, 1)))
      assert(os.execute(("tail -c +129 %s/x.npy > %s/%s && rm %s/x.npy"):format(dir, dir, entry.file, dir)))
      expected[#expected + 1] = entry
    end)
    local pipe <close> = assert(io.popen(("cd %s && sha256sum *.png"):format(dir)))
    local sums = pipe:read "a"
    os.execute("rm -rf " .. dir)
    if not n then return pending(reason) end
    for _, entry in ipairs(expected) do
      assert.matches(entry.sha256 .. "  " .. entry.file, sums, 1, true)
    end
    assert.are.equal(111, n)
    assert.is_true(#expected >= 91)
    rounds.count("%d pictures have the reference's bytes", #expected)
  end)

  it("in BMP are refused by name, with what is read instead", function()
    local list = robust.list "bmp"
    if not list then return pending "needs ../shared/data/robust" end
    for _, entry in ipairs(list) do
      local x, message = read(entry.path)
      assert.is_nil(x, entry.file)
      assert.matches("got a BMP file, expected PNG or JPEG", message, 1, true)
    end
    rounds.count("bmp: %d refused by name", #list)
    assert.are.equal(33, #list)
  end)

  it("in other formats are refused by name", function()
    for name, start in pairs { GIF = "GIF89a", WebP = "RIFF\0\0\0\0WEBP", TIFF = "II*\0" } do -- order free: one by one
      local f <close> = assert(io.open(file, "wb"))
      f:write(start, ("x"):rep(20))
      f:close()
      local x, message = hd.image.load(file)
      assert.is_nil(x)
      assert.matches("got a " .. name .. " file, expected PNG or JPEG", message, 1, true)
    end
  end)

  it("never pass when they are cut", function()
    assert(hd.image.save(file, hd.zeros(3, 9, 9)))
    local f = assert(io.open(file, "rb"))
    local text = f:read "a"
    f:close()
    for n = 0, #text - 1 do
      f = assert(io.open(file, "wb"))
      f:write(text:sub(1, n))
      f:close()
      assert.is_nil((hd.image.load(file)))
    end
  end)
end)

describe("hd.image.resize", function()
  it("averages over areas when it shrinks", function()
    local x = hd.tensor { { { 0, 90, 180 }, { 0, 90, 180 } } }
    local y = hd.image.resize(x, { 1, 2 })
    assert.are.same({ 1, 1, 2 }, y:shape())
    assert.is_true(math.abs(y:get(1, 1, 1) - 30) < 1e-4 and math.abs(y:get(1, 1, 2) - 150) < 1e-4)
  end)

  it("keeps type and rank", function()
    local y = hd.image.resize(hd.full({ 4, 6 }, 200, { dtype = "u8" }), 3)
    assert.are.equal("u8", y:dtype())
    assert.is_true(y:equal(hd.full({ 3, 3 }, 200, { dtype = "u8" })))
    assert.are.same({ 2, 8, 8 }, hd.image.resize(hd.zeros(2, 3, 5), 8):shape())
  end)

  it("raises on impossible sizes", function()
    fails("expected sides of 1", hd.image.resize, hd.zeros(3, 2, 2), 0)
    fails("expected 1 or 2", hd.image.resize, hd.zeros(3, 2, 2), { 1, 2, 3 })
  end)
end)

describe("hd.image.grid", function()
  it("places pictures row by row on white", function()
    local x = hd.tensor({ { { { 1 } } }, { { { 2 } } }, { { { 3 } } } }, { dtype = "u8" })
    local g = hd.image.grid(x, { columns = 2, pad = 1 })
    local w = 255
    local line = { w, w, w, w, w }
    assert.are.same({ { line, { w, 1, w, 2, w }, line, { w, 3, w, w, w }, line } }, g:totable())
  end)

  it("is square by default and white is 1 in f32", function()
    local g = hd.image.grid(hd.zeros(9, 3, 4, 5))
    assert.are.same({ 3, 3 * 6 + 2, 3 * 7 + 2 }, g:shape())
    assert.are.equal(1, g:get(1, 1, 1))
    assert.are.equal(0, g:get(3, 3, 3))
    assert.are.equal(9 * 3 * 20, (1 - g):sum():item())
  end)

  it("raises on what is no set", function()
    fails("expected [n,channels,height,width]", hd.image.grid, hd.zeros(3, 4, 4))
    fails("columns or pad", hd.image.grid, hd.zeros(1, 3, 4, 4), { columns = 0 })
  end)
end)
