-- examples/edit_levels.lua and superres.lua, in a short form: what they write, and what of it must be as it was.

local hd = require "hd"

local hdlua = os.getenv "HDLUA" or "build/hdlua"
local root = io.popen("pwd"):read "l"
local folder -- a fresh one for each test

-- Runs a shell command in the folder; $H is hdlua, $E the folder of the examples. Gives what it printed.
local function shell(command)
  local names = ("H='%s --threads 1' E=%s/examples"):format(hdlua, root)
  local path = folder .. "/out.txt"
  local _, _, code = os.execute(("cd %s && %s && { %s\n} >out.txt 2>&1"):format(folder, names, command))
  local f <close> = assert(io.open(path))
  local text = f:read "a"
  assert.are.equal(0, code, text)
  return text
end

local function largest(a, b) return (a - b):abs():amax():item() end

setup(function()
  if hdlua:sub(1, 1) ~= "/" then hdlua = root .. "/" .. hdlua end
end)
before_each(function() folder = io.popen("mktemp -d"):read "l" end)
after_each(function() os.execute("rm -rf " .. folder) end)

describe("edit_levels", function()
  it("keeps what is held, and draws the rest anew", function()
    shell "$H $E/edit_levels.lua --data shapes --size 8 --width 8 --steps 4 --n 3 --draw_steps 3 --out a"
    local rows = assert(hd.load(folder .. "/a.npy"))
    assert.are.same({ 6, 3, 3, 8, 8 }, rows:shape())
    local H = hd.hierarchy.images { size = 8 }
    local own = H:split(rows[1])
    local function check(row, kept, drawn)
      local z = H:split(rows[row])
      for _, name in ipairs(kept) do assert.is_true(largest(z[name], own[name]) < 1e-5, row .. name) end
      for _, name in ipairs(drawn) do assert.is_true(largest(z[name], own[name]) > 1e-3, row .. name) end
    end
    check(2, { "shapes", "colours" }, { "textures" })
    check(3, { "textures" }, { "shapes", "colours" })
    check(4, { "shapes", "textures" }, { "colours" })
    check(5, {}, { "shapes", "colours", "textures" })
    local left, right = { {}, {}, {}, { 1, 4 } }, { {}, {}, {}, { 5, 8 } }
    assert.is_true(largest(rows[6][left], rows[1][left]) < 1e-5)
    assert.is_true(largest(rows[6][right], rows[1][right]) > 0.05)
    local again = shell "$H $E/edit_levels.lua --model a/model.safetensors --data shapes --n 3 --draw_steps 3 --out b"
    assert.matches("wrote b.png", again, 1, true)
    assert.is_true(assert(hd.load(folder .. "/b.npy")):equal(rows))
  end)
end)

describe("superres", function()
  it("enlarges small pictures without changing them; resumed it is one run", function()
    local options = "--data shapes --size 32 --width 8 --batch 2 --samples 2"
    local train = "$H $E/superres.lua --steps 3 --out a " .. options
    shell(train .. " && " .. train .. " --resume")
    local large = assert(hd.load(folder .. "/a/enlarged.npy"))
    assert.are.same({ 2, 3, 32, 32 }, large:shape())
    local small = hd.hierarchy.wavelet.split(large, 2, "db2")
    local real = hd.data.shapes { size = 32, n = 500 }:batches { size = 2, seed = 1 }()
    local expected = hd.hierarchy.wavelet.split(real, 2, "db2")
    assert.is_true(largest(small, expected) < 1e-4)
    assert.is_true(largest(large, real) > 0.1)
    assert.are.same({ 3, 32 * 3 + 2 * 4, 32 * 2 + 2 * 3 }, assert(hd.image.load(folder .. "/a/enlarged.png")):shape())
    shell(("$H $E/superres.lua %s --steps 1 --only detail --wavelet haar --out b"):format(options))
  end)
end)
