-- hd.load and hd.save: .npy, .npz and .safetensors, there and back, and what is refused.

local hd = require "hd"
local robust = require "tests.lua.robust"

local folder

setup(function()
  folder = os.tmpname()
  os.remove(folder)
  assert(os.execute("mkdir " .. folder))
end)

teardown(function() os.execute("rm -rf " .. folder) end)

local function path(name) return folder .. "/" .. name end

local function write(name, text)
  local f <close> = assert(io.open(path(name), "wb"))
  f:write(text)
  return path(name)
end

local function read(name)
  local f <close> = assert(io.open(path(name), "rb"))
  return f:read "a"
end

local TYPES = { "f32", "f64", "i64", "i32", "u8", "bool" }

-- A tensor of each type and of several shapes, under names.
local function samples()
  local map = {}
  for _, dtype in ipairs(TYPES) do
    map[dtype .. ".a"] = hd.tensor({ { 1, 0, 3 }, { 0, 5, 6 } }, { dtype = dtype })
    map[dtype .. ".empty"] = hd.zeros(3, 0, { dtype = dtype })
    map[dtype .. ".number"] = hd.tensor(1, { dtype = dtype })
  end
  return map
end

local function assert_same(expected, got)
  assert.are.equal(expected:dtype(), got:dtype())
  assert.are.same(expected:shape(), got:shape())
  assert.is_true(expected:equal(got))
end

describe("hd.save and hd.load", function()
  it("keep type, shape and values in .npy", function()
    for name, x in pairs(samples()) do
      assert.is_true(hd.save(path "x.npy", x), name)
      assert_same(x, assert(hd.load(path "x.npy")))
    end
  end)

  for _, kind in ipairs { "npz", "safetensors" } do
    it("keep a table of tensors in ." .. kind, function()
      local map = samples()
      assert.is_true(hd.save(path("x." .. kind), map))
      local back = assert(hd.load(path("x." .. kind)))
      for name, x in pairs(map) do assert_same(x, back[name]) end
      for name in pairs(back) do assert.is_not_nil(map[name]) end
    end)

    it("write the same bytes for the same content in ." .. kind, function()
      local a = { x = hd.ones(2, 3), y = hd.zeros(4), z = hd.tensor({ 1, 2 }, { dtype = "u8" }) }
      local b = {}
      for _, key in ipairs { "z", "x", "y" } do b[key] = a[key] end
      assert(hd.save(path("1." .. kind), a))
      assert(hd.save(path("2." .. kind), b))
      assert.are.equal(read("1." .. kind), read("2." .. kind))
    end)
  end

  it("follow logical order whatever the memory order", function()
    local x = hd.arange(1, 24):view(2, 3, 4)
    local views = { x:permute(3, 1, 2), x:transpose(1, 3), x[2], x:narrow(3, 2, 2), hd.ones(1, 3):expand(4, 3) }
    for _, view in ipairs(views) do
      for _, kind in ipairs { "npy", "npz", "safetensors" } do
        assert(hd.save(path("v." .. kind), kind == "npy" and view or { v = view }))
        local back = assert(hd.load(path("v." .. kind)))
        assert_same(view, kind == "npy" and back or back.v)
      end
    end
  end)

  it("carry metadata and a checksum in .safetensors", function()
    assert(hd.save(path "m.safetensors", { x = hd.ones(2) }, { metadata = { note = "with \"quotes\"\nand ünicode" } }))
    local _, metadata = assert(hd.load(path "m.safetensors"))
    assert.are.equal("with \"quotes\"\nand ünicode", metadata.note)
    assert.matches("^%x+$", metadata["hdlua.checksum"])
    local text = read "m.safetensors"
    write("m.safetensors", text:sub(1, -2) .. "\1")
    local data, message = hd.load(path "m.safetensors")
    assert.is_nil(data)
    assert.matches("is damaged", message, 1, true)
  end)

  it("keep the file before on wish", function()
    assert(hd.save(path "k.safetensors", { x = hd.ones(1) }))
    assert(hd.save(path "k.safetensors", { x = hd.ones(2) }, { keep_previous = true }))
    assert.are.equal(1, hd.load(path "k.safetensors.prev").x:size(1))
    assert.are.equal(2, hd.load(path "k.safetensors").x:size(1))
  end)

  it("give nil and a message where the world fails", function()
    for _, name in ipairs { "none.npy", "none.npz", "none.safetensors" } do
      local data, message = hd.load(path(name))
      assert.is_nil(data)
      assert.matches("No such file", message, 1, true)
    end
    local data, message = hd.load(path "x.txt")
    assert.is_nil(data)
    assert.matches("known: .npy, .npz, .safetensors", message, 1, true)
    local done
    done, message = hd.save(path "no/where.npy", hd.ones(1))
    assert.is_nil(done)
    assert.matches("cannot save", message, 1, true)
    assert.has_error(function() assert(hd.load(path "none.npy")) end)
  end)

  it("raise on misuse", function()
    local function fails(words, ...)
      local ok, message = pcall(...)
      assert.is_false(ok)
      assert.matches(words, message, 1, true)
    end
    fails("expected tensor", hd.save, path "x.npy", { x = hd.ones(1) })
    fails("a table of name = tensor", hd.save, path "x.npz", hd.ones(1))
    fails("a table of name = tensor", hd.save, path "x.safetensors", { x = 1 })
    fails("a table of name = tensor", hd.save, path "x.safetensors", { hd.ones(1) })
    fails("unknown extension", hd.save, path "x.pt", hd.ones(1))
    fails("did you mean 'metadata'?", hd.save, path "x.safetensors", {}, { metdata = {} })
    fails("unknown option", hd.save, path "x.npy", hd.ones(1), { metadata = {} })
    fails("metadata.k is wrong", hd.save, path "x.safetensors", {}, { metadata = { k = 1 } })
    fails("__metadata__", function() assert(hd.save(path "x.safetensors", { __metadata__ = hd.ones(1) })) end)
  end)
end)

describe("files of others", function()
  -- version, dictionary, data
  local function npy(dictionary, data) return "\x93NUMPY\1\0" .. string.pack("<s2", dictionary) .. data end

  it("are read from NumPy in both orders and both byte orders", function()
    local rows = string.pack("<i4i4i4i4i4i4", 1, 2, 3, 4, 5, 6)
    local columns = string.pack(">i4i4i4i4i4i4", 1, 4, 2, 5, 3, 6)
    local c = npy("{'descr': '<i4', 'fortran_order': False, 'shape': (2, 3), }\n", rows)
    local f = npy("{'descr': '>i4', 'fortran_order': True, 'shape': (2, 3), }\n", columns)
    local a, b = assert(hd.load(write("c.npy", c))), assert(hd.load(write("f.npy", f)))
    assert.are.same({ { 1, 2, 3 }, { 4, 5, 6 } }, a:totable())
    assert_same(a, b)
    assert.are.same({ 1, 2 }, b:strides())
  end)

  it("widen types that tensors do not have", function()
    local function value(descr, data)
      local dictionary = ("{'descr': '%s', 'fortran_order': False, 'shape': (), }"):format(descr)
      return assert(hd.load(write("w.npy", npy(dictionary, data))))
    end
    local cases = {
      { "<f2", "\0\x3E", "f32", 1.5 }, { "|i1", "\xFE", "i32", -2 }, { "<i2", "\0\x80", "i32", -32768 },
      { "<u2", "\xFF\xFF", "i32", 65535 }, { "<u4", "\xFF\xFF\xFF\xFF", "i64", 4294967295 },
      { "|b1", "\7", "bool" },
    }
    for _, case in ipairs(cases) do
      local x = value(case[1], case[2])
      assert.are.equal(case[3], x:dtype())
      if case[4] then assert.are.equal(case[4], x:item()) end
    end
  end)

  for format, files in pairs { npy = 18, safetensors = 16 } do -- order free: each is a test of its own
    it("in " .. format .. " are decided as the list of odd files says", function()
      local n, reason = robust.decide(format, hd.load)
      if not n then return pending(reason) end
      assert.are.equal(files, n)
    end)
  end

  it("survive any cut and any changed byte", function()
    assert(hd.save(path "s.safetensors", { x = hd.ones(2, 3), y = hd.tensor({ 1 }, { dtype = "i64" }) }))
    assert(hd.save(path "s.npz", { x = hd.ones(2, 3) }))
    assert(hd.save(path "s.npy", hd.ones(2, 3)))
    for _, name in ipairs { "s.safetensors", "s.npz", "s.npy" } do
      local text = read(name)
      for i = 1, #text do
        local data, message = hd.load(write("t" .. name, text:sub(1, i - 1)))
        assert.is_nil(data, ("%s cut to %d bytes"):format(name, i - 1))
        assert.is_string(message)
        local changed = text:sub(1, i - 1) .. string.char(text:byte(i) ~ 0x15) .. text:sub(i + 1)
        data, message = hd.load(write("t" .. name, changed))
        assert.is_true(data ~= nil or type(message) == "string")
      end
    end
  end)

  it("with values that are not finite are read and reported", function()
    assert(hd.save(path "odd.safetensors", { w = hd.tensor { 1, 0, -1 } / 0 }))
    local script = ("require('hd').load('%s')"):format(path "odd.safetensors")
    local pipe <close> = assert(io.popen(("'%s' -e \"%s\" 2>&1"):format(os.getenv "HDLUA", script)))
    assert.matches("not finite: w (3)", pipe:read "a", 1, true)
  end)
end)
