-- tests/lua/args_spec.lua: the options of scripts.

local args = require "hd.args"

local hdlua = assert(os.getenv "HDLUA", "HDLUA is not set: run by tests/run.sh")

local SPEC = {
  steps = 100, lr = 1e-3, out = "runs", resume = false, flip = true, save_every = 30, minutes = args.number,
  n = args.integer, name = args.string, regime = { "cascade", "flat" },
}

-- Run a script that calls hd.args; its output and exit code.
local function run(script, before, after)
  local path = os.tmpname()
  local file = assert(io.open(path, "w"))
  file:write(script)
  file:close()
  local pipe = io.popen(("'%s' %s %s %s 2>&1"):format(hdlua, before, path, after))
  local text = pipe:read "a"
  local _, _, code = pipe:close()
  os.remove(path)
  return text, code
end

describe("args.parse", function()
  it("gives the defaults", function()
    local v = args.parse(SPEC, {})
    assert.are.same({ 100, 1e-3, "runs", false, true, 30 }, { v.steps, v.lr, v.out, v.resume, v.flip, v.save_every })
    assert.is_nil(v.minutes)
    assert.are.equal("cascade", v.regime)
  end)

  it("reads values in every form, with the type of the default", function()
    local v = args.parse(SPEC, { "--steps", "7", "--lr=2", "--save-every", "0", "--resume", "--no-flip", "--out=a=b",
      "--minutes", "0.5", "--n", "-3", "--name", "--x" })
    assert.are.same({ 7, 2.0, 0, true, false, "a=b", 0.5, -3, "--x" },
      { v.steps, v.lr, v.save_every, v.resume, v.flip, v.out, v.minutes, v.n, v.name })
    assert.are.equal("float", math.type(v.lr))
    assert.are.equal("integer", math.type(v.steps))
  end)

  it("names what is wrong", function()
    local function message(...) return select(2, args.parse(SPEC, { ... })) end
    assert.matches("unknown option '%-%-step'%. did you mean '%-%-steps'%?", message("--step", "3"))
    assert.matches("%-%-steps has the wrong value: got '2%.5', expected an integer", message("--steps", "2.5"))
    assert.matches("%-%-lr needs a value", message("--lr"))
    assert.matches("unexpected argument 'train'", message("train"))
    assert.matches("%-%-regime has the wrong value: got 'flad'. did you mean 'flat'%? known: cascade, flat",
      message("--regime", "flad"))
    assert.are.equal("flat", args.parse(SPEC, { "--regime=flat" }).regime)
    assert.matches("%-%-resume is a flag", message("--resume=yes"))
  end)
end)

describe("hd.args in a script", function()
  it("ends with code 2 and the nearest option", function()
    local text, code = run("require 'hd.args' { steps = 1 } print 'on'", "", "--stesp 3")
    assert.are.equal(2, code)
    assert.matches("did you mean '%-%-steps'", text)
    assert.not_matches("on\n", text)
  end)

  it("lists the options with --help", function()
    local text, code = run("require 'hd.args'({ steps = 9 }, { 'Trains.', steps = 'training steps' })", "", "--help")
    assert.are.equal(0, code)
    assert.matches("Trains%.", text)
    assert.matches("%-%-steps INTEGER%s+training steps %(9%)", text)
    assert.matches("%-%-seed", text)
  end)

  it("applies seed and threads, given before or after the script", function()
    local script = "local v = require 'hd.args' {} local core = require 'hd.core'"
      .. " io.write(v.seed, ' ', core.threads(), ' ', core.rand(1):item())"
    local default, after, before = run(script, "", "--threads 1"), run(script, "", "--seed 5 --threads 1"),
      run(script, "--seed 5 --threads 1", "")
    assert.are.equal(after, before)
    assert.matches("^0 1 ", default)
    assert.matches("^5 1 ", after)
    assert.are_not.equal(default:match "%S+$", after:match "%S+$")
    assert.matches("^6 ", (run(script, "--seed 5", "--seed 6")))
  end)

  it("refuses a number of threads that there cannot be", function()
    local text, code = run("require 'hd.args' {}", "", "--threads 0")
    assert.are.equal(2, code)
    assert.matches("%-%-threads has the wrong value: got 0, expected 1 to 256", text)
  end)
end)
