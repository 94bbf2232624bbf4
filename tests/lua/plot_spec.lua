-- tests/lua/plot_spec.lua: charts and labelled grids.

local hd = require "hd"
local plot = hd.plot

local BLUE = { 31, 119, 180 }

-- Positions { x, y } of all pixels of one colour.
local function find(picture, colour)
  local hit = picture[1]:eq(colour[1]):logical_and(picture[2]:eq(colour[2])):logical_and(picture[3]:eq(colour[3]))
  local found = {}
  for y, row in ipairs(hit:totable()) do
    for x, yes in ipairs(row) do
      if yes then found[#found + 1] = { x, y } end
    end
  end
  return found
end

local function extent(found, k)
  local low, high = math.huge, -math.huge
  for _, p in ipairs(found) do low, high = math.min(low, p[k]), math.max(high, p[k]) end
  return low, high
end

describe("plot.lines", function()
  it("draws a rising line from the lower left to the upper right", function()
    local picture = plot.lines({ { y = { 0, 1 } } }, { width = 300, height = 200 })
    assert.are.same({ 3, 200, 300 }, picture:shape())
    assert.are.equal("u8", picture:dtype())
    local found = find(picture, BLUE)
    local left, right = extent(found, 1)
    assert.is_true(right - left > 200)
    for _, p in ipairs(found) do -- on the straight line, to 3 pixels
      local part = (p[1] - left) / (right - left)
      local low, high = extent(found, 2)
      assert.is_true(math.abs(p[2] - (high + part * (low - high))) < 3)
    end
  end)

  it("leaves a gap at values that cannot be drawn", function()
    local whole = #find(plot.lines({ { y = { 1, 1, 1, 1, 1 } } }), BLUE)
    local broken = #find(plot.lines({ { y = { 1, 1, 0 / 0, 1, 1 } } }), BLUE)
    assert.is_true(broken < 0.6 * whole and broken > 0.4 * whole)
    assert.are.equal(broken, #find(plot.lines({ { y = { 1, 1, -1, 1, 1 } } }, { log_y = true }), BLUE))
  end)

  it("keeps a peak among more points than pixels", function()
    local y = {}
    for i = 1, 5000 do y[i] = i == 2500 and 1 or 0 end
    local low, high = extent(find(plot.lines({ { y = y } }, { height = 200 }), BLUE), 2)
    assert.is_true(high - low > 80)
  end)

  it("smooths, labels, and takes tensors", function()
    local y = hd.randn(200, { rng = hd.rng(1) })
    local function height(o)
      local low, high = extent(find(plot.lines({ { y = y:totable() }, { name = "scale", y = { -3, 3 } } }, o), BLUE), 2)
      return high - low
    end
    assert.is_true(height { smooth = 0.95 } < 0.7 * height {})
    local plain = plot.lines { { y = y } }
    assert.is_false(plain:equal(plot.lines({ { y = y } }, { title = "loss" })))
    assert.is_true(plain:equal(plot.lines { { y = y:totable() } }))
  end)

  it("refuses what does not fit together", function()
    local function message(...) return select(2, pcall(...)) end
    assert.matches("series 1 has 2 values of x for 3 of y", message(plot.lines, { { x = { 1, 2 }, y = { 1, 2, 3 } } }))
    assert.matches("did you mean 'log_y'", message(plot.lines, { { y = { 1 } } }, { logy = true }))
    assert.matches("too small: got 20x20", message(plot.lines, { { y = { 1 } } }, { width = 20, height = 20 }))
  end)

  it("draws nothing but axes without data", function()
    assert.are.equal(0, #find(plot.lines { { y = {} } }, BLUE))
  end)
end)

describe("plot.grid", function()
  it("shows each picture's own pixels, grey ones in three channels", function()
    local grey, colour = hd.randint(0, 255, { 1, 9, 9 }):to "u8", hd.rand(3, 5, 7) * 2 - 1
    local picture = plot.grid({ { image = grey }, { image = colour } }, { pad = 4 })
    for c = 1, 3 do
      assert.are.equal(grey:get(1, 2, 3), picture:get(c, 24 + 2, 4 + 3))
      local expected = (colour:get(c, 5, 7) + 1) * 127.5
      assert.is_true(math.abs(picture:get(c, 24 + 5, 4 + 9 + 4 + 7) - expected) <= 0.5001)
    end
  end)

  it("labels columns and makes grids of batches", function()
    local x = hd.zeros(4, 3, 8, 8)
    local plain, named = plot.grid { { image = x } }, plot.grid { { name = "shapes", image = x } }
    assert.are.equal(plain:size(2), named:size(2))
    assert.is_true(#find(named, { 40, 40, 40 }) > 0 and #find(plain, { 40, 40, 40 }) == 0)
    assert.matches("image is wrong", select(2, pcall(plot.grid, { { image = hd.zeros(2, 3, 3) } })))
  end)
end)
