-- examples/train_images.lua and sample_images.lua, in a short form: what they write, resuming, interrupts, bad input.

local hd = require "hd"

local hdlua = os.getenv "HDLUA" or "build/hdlua"
local root = io.popen("pwd"):read "l"
local folder -- a fresh one for each test

local SMALL = " --data shapes --steps 20 --width 8 --batch 8 --samples 4 --view off --threads 1 "

local function path(name) return folder .. "/" .. name end

local function read(name)
  local f = assert(io.open(path(name), "rb"))
  local text = f:read "a"
  f:close()
  return text
end

local function exists(name)
  local f = io.open(path(name), "rb")
  if f then f:close() end
  return f ~= nil
end

-- Runs a shell command in the folder; $H is hdlua, $T and $S the examples. Gives what it printed and its exit code.
local function shell(command)
  local names = ("H=%s T='%s/examples/train_images.lua %s' S=%s/examples/sample_images.lua"):format(hdlua, root, SMALL,
    root)
  local _, _, code = os.execute(("cd %s && %s && { %s\n} >out.txt 2>&1"):format(folder, names, command))
  return read "out.txt", code
end

setup(function()
  if hdlua:sub(1, 1) ~= "/" then hdlua = root .. "/" .. hdlua end
end)
before_each(function() folder = io.popen("mktemp -d"):read "l" end)
after_each(function() os.execute("rm -rf " .. folder) end)

describe("train_images", function()
  it("trains, writes its results and draws the same pictures from the model", function()
    local text, code = shell "$H $T --out a && $H $S --model a/model.safetensors --n 4 --out again.npy"
    assert.are.equal(0, code, text)
    assert.matches("step 20/20 .*shapes %d.*colours %d.*textures %d.*rate %d.*ETA 0:00\n", text)
    local x = assert(hd.load(path "a/samples.npy"))
    assert.are.same({ 4, 3, 32, 32 }, x:shape())
    assert.are.equal("f32", x:dtype())
    assert.is_true(x:min():item() >= -1 and x:max():item() <= 1)
    assert.is_true(assert(hd.load(path "again.npy")):equal(x))
    assert.are.same({ 3, 36, 274 }, assert(hd.image.load(path "a/samples.png")):shape())
  end)

  it("stopped and resumed equals one that went through, bit for bit", function()
    local text, code = shell "$H $T --out a && $H $T --out b --stop-at 7 && $H $T --out b --resume"
    assert.are.equal(0, code, text)
    assert.matches("resuming 'b' at step 7", text, 1, true)
    assert.are.equal(read "a/model.safetensors", read "b/model.safetensors")
    assert.are.equal(read "a/samples.npy", read "b/samples.npy")
  end)

  it("draws again on a finished run", function()
    local text, code = shell "$H $T --out a && rm a/samples.npy && $H $T --out a --resume --samples 2"
    assert.are.equal(0, code, text)
    assert.are.same({ 2, 3, 32, 32 }, assert(hd.load(path "a/samples.npy")):shape())
  end)

  it("gives the same weights with any number of threads", function()
    local text, code = shell "$H $T --steps 5 --threads 1 --out a && $H $T --steps 5 --threads 3 --out b"
    assert.are.equal(0, code, text)
    assert.are.equal(read "a/model.safetensors", read "b/model.safetensors")
  end)

  it("has other regimes and shared networks", function()
    local text, code = shell [[
      for r in joint staggered free; do $H $T --steps 2 --samples 2 --regime $r --out $r || exit 1; done
      $H $T --steps 3 --regime flat --out a && $H $S --model a/model.safetensors --n 4 --out a.npy &&
      $H $T --steps 3 --share --out b && $H $S --model b/model.safetensors --n 4 --out b.npy]]
    assert.are.equal(0, code, text)
    assert.matches("step 3/3 .*flat %d", text)
    assert.are.equal(read "a/samples.npy", read "a.npy")
    assert.are.equal(read "b/samples.npy", read "b.npy")
  end)

  it("does what --on-nan says where the rate is far too high", function()
    local text, code = shell "$H $T --lr 1e25 --out a; $H --anomaly $T --lr 1e25 --out a --resume"
    assert.are.equal(1, code, text)
    assert.matches("/train_images.lua:%d+: run: step 2 is not finite: got loss nan", text)
    assert.matches("are not finite: models%.shapes%.conv_in%.weight, .*'a/nan_step_000002%.safetensors'", text)
    assert.matches("/train_images.lua:%d+: unet.*linear: the result is not finite: got", text)
    text = shell "$H $T --lr 1e25 --out b --on-nan skip --samples 0"
    assert.matches("step 11 is not finite, the 10th in a row", text, 1, true)
    text = shell "$H $T --lr 1e25 --out c --on-nan rollback --samples 0"
    assert.matches("going back to the last checkpoint\nrun: back at step 0\n", text)
    assert.matches("is not finite, 3 times within 128 steps", text, 1, true)
  end)

  it("moves an earlier run away", function()
    local text, code = shell "$H $T --steps 2 --out a && $H $T --steps 1 --out a"
    assert.are.equal(0, code, text)
    assert.matches("moved the earlier run in 'a' to 'a.1'", text, 1, true)
    assert.is_true(exists "a.1/model.safetensors" and exists "a/model.safetensors")
  end)

  it("plans by the clock", function()
    local text, code = shell "$H ${T%--steps 20*} --minutes 0.05 --width 8 --batch 8 --samples 0 --view off --out a"
    assert.are.equal(0, code, text)
    local planned = text:match "s: (%d+) steps in 0.05 minutes"
    assert.matches(("step %d/%d "):format(planned, planned), text, 1, true)
  end)

  it("saves on Ctrl-C, ends with 130 and goes on to the same weights", function()
    local text = shell [[
      $H $T --out a --steps 60 & p=$!
      for i in $(seq 100); do grep -q '^step' out.txt && break; sleep 0.1; done
      kill -INT $p; wait $p; echo code $?]]
    assert.matches("code 130\n", text, 1, true)
    assert.matches("interrupted after step %d+: saved", text)
    local rest, code = shell "$H $T --steps 60 --out a --resume && $H $T --steps 60 --out b"
    assert.are.equal(0, code, rest)
    assert.are.equal(read "a/model.safetensors", read "b/model.safetensors")
  end)
end)

describe("bad input", function()
  local function fails(expected_code, pattern, command)
    local text, code = shell(command)
    assert.matches(pattern, text, 1, true)
    assert.are.equal(expected_code, code)
  end

  it("an unknown option ends with 2 and the nearest one", function()
    fails(2, "unknown option '--setps'. did you mean '--steps'?", "$H $T --setps 3")
    fails(2, "did you mean 'cascade'?", "$H $T --regime cascad")
  end)

  it("data that are not there, or do not fit, end with 1", function()
    assert(os.execute(("mkdir %s && head -c 30730 /dev/zero > %s/data_batch_1.bin"):format(path "cifar", path "cifar")))
    fails(1, "--data is wrong", "$H $T --data emojis")
    fails(1, "no data_batch_*.bin in 'nowhere'", "$H $T --data cifar:nowhere")
    fails(1, "the pictures are 32 pixels high: use --size", "$H $T --size 64 --data cifar:cifar")
    fails(1, "cannot list the folder", "$H $T --data folder:nowhere")
  end)

  it("a folder that cannot be written ends with 1", function()
    fails(1, "run.new: ", "touch file && $H $T --out file/a")
    fails(1, "run.new: out is empty", "$H $T --out ''")
  end)

  it("other settings and foreign models are refused", function()
    shell "$H $T --steps 2 --out a"
    fails(1, "other settings: width (8, now 16)", "$H $T --steps 2 --out a --resume --width 16")
    assert(hd.save(path "x.safetensors", { x = hd.zeros { 1 } }))
    fails(1, "'x.safetensors' holds no hierarchy: ", "$H $S --model x.safetensors")
    fails(1, "cannot open 'none.safetensors'", "$H $S --model none.safetensors")
  end)
end)

describe("train_images in the preview window", function()
  local display, server, process

  local function capture(command)
    local pipe = assert(io.popen(command))
    local text = pipe:read "a"
    pipe:close()
    return text
  end

  -- Call `condition` until it gives a true value, for 60 s at most (the machine may be busy); returns that value.
  local function eventually(what, condition)
    local stop = os.time() + 60
    while os.time() <= stop do
      local value = condition()
      if value then return value end
      os.execute "sleep 0.2"
    end
    error(("never happened: %s\n%s"):format(what, exists "log.txt" and read "log.txt" or ""), 2)
  end

  before_each(function()
    local run = "cd %s && exec Xvfb -displayfd 3 -screen 0 1280x800x24 -nolisten tcp -noreset 3>display >xvfb 2>&1"
    server = capture(("(%s & echo $!)"):format(run:format(folder))):match "%d+"
    display = ":" .. eventually("Xvfb", function() return exists "display" and read "display":match "%d+" end)
    local command = "(cd %s && DISPLAY=%s exec %s %s/examples/train_images.lua %s >log.txt 2>&1 & echo $!)"
    local options = SMALL:gsub("off", "window"):gsub("20", "1000000") .. " --out a"
    process = capture(command:format(folder, display, hdlua, root, options)):match "%d+"
  end)

  after_each(function() os.execute(("kill -9 %s 2>&1; kill %s"):format(process, server)) end)

  local function window()
    return capture(("DISPLAY=%s xdotool search --name 'hdlua a' 2>&1"):format(display)):match "^%d+"
  end

  -- The upper half of the window's pixels, where no text of the training is; nil while there are no pictures in it.
  local function pictures()
    local dump = capture(("DISPLAY=%s xwd -id %s -silent 2>&1"):format(display, window() or 0))
    if #dump < 200 then return nil end
    local first = (">I4"):unpack(dump) + 12 * (">I4"):unpack(dump, 77) + 1
    local pixels, colours, count = dump:sub(first, first + (#dump - first) // 2), {}, 0
    for pixel in pixels:gmatch "...." do
      if not colours[pixel] then colours[pixel], count = true, count + 1 end
    end
    return count > 100 and pixels or nil
  end

  it("shows data and samples, and trains on when it is closed", function()
    eventually("a window", window)
    local frames, seen = 0, {}
    eventually("three different frames", function()
      local pixels = pictures()
      if pixels and not seen[pixels] then frames, seen[pixels] = frames + 1, true end
      return frames >= 3
    end)
    os.execute(("DISPLAY=%s xdotool windowkill %s"):format(display, window()))
    eventually("no window", function() return not window() end)
    local before = #read "log.txt"
    eventually("more steps", function() return read "log.txt":find("step ", before, true) end)
    os.execute("kill -INT " .. process)
    eventually("the end", function() return read "log.txt":find("interrupted after step %d+: saved") end)
  end)
end)
