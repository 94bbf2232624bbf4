-- Checkpoints that can be trusted: all of a run comes back, every damage is found, no fault of the disk or of a folder
-- ends a run or loses what was saved, and no two runs share a folder.

local hd = require "hd"
local core = require "hd.core"
local checkpoint = require "hd.run.checkpoint"
local logs = require "hd.run.log"
local rounds = require "tests.lua.rounds"
local sandbox = require "tests.lua.sandbox"
local path, read, write, shell = sandbox.path, sandbox.read, sandbox.write, sandbox.shell

-- Holds whatever a script may hold. At step `at` and `again` it runs shell commands.
local SCRIPT = [[
  local hd = require "hd"
  local args = hd.args { out = "r", steps = 20, resume = false, stop_at = hd.args.integer, save_every = 0.0,
    at = 0, command = "", again = 0, undo = "", pause = 0.0 }
  hd.threads(1)
  local H = hd.hierarchy.new { split = function(x) return { a = x } end, join = function(z) return z.a end,
    levels = { { name = "a" } } }
  local net = hd.nn.Sequential(hd.nn.Linear(4, 64), hd.nn.Dropout(0.1), hd.nn.SiLU(), hd.nn.Linear(64, 4))
  local head = hd.nn.Linear(4, 4)
  local opt = hd.optim.AdamW({ { params = net:parameters(), lr = 1e-2 }, { params = head:parameters() } })
  local sgd = hd.optim.SGD(head:parameters(), { lr = 1e-2, momentum = 0.9 })
  local state = {
    net = net, head = head, opt = opt, sgd = sgd, ema = hd.optim.EMA(net), own = { hd.rng(5), hd.rng(6, 7) }, H = H,
    rate = hd.optim.lr.cosine(opt, { steps = args.steps, warmup = 3 }), scale = hd.ones { 2 },
    history = {}, notes = { best = math.huge, name = "none", seen = {} },
  }
  if not args.resume then H:set_stats { a = { mean = 0.25, std = 2 } } end
  local run <close> = assert(hd.run.new { out = args.out, resume = args.resume, save_every = args.save_every,
    settings = { steps = args.steps }, state = state })
  local set = hd.data.Set(hd.randint(0, 255, { 37, 1, 2, 2 }, { rng = hd.rng(9) }):to "u8")
  local batches = set:batches { size = 8, flip = true, prefetch = 3,
    transform = function(x) return x + hd.randn_like(x) * 0.1 end }
  for step, x in run:steps(batches, args.steps, { stop_at = args.stop_at }) do
    x = H:standardise("a", x:reshape(8, 4) + hd.rand({ 8, 4 }, { rng = state.own[1] }))
    local loss = ((head(net(x)) - x) ^ 2):mean() * state.own[2]:number()
    opt:zero_grad()
    loss:backward()
    opt:step()
    sgd:step()
    opt.groups[1].weight_decay = 0.01 * step
    state.rate:step()
    state.ema:update()
    state.history[step] = loss:item()
    state.notes.best = math.min(state.notes.best, loss:item())
    state.notes.name = "step " .. step
    state.notes.seen["at" .. step % 3] = step
    state.scale:mul_(1.01)
    run:log { loss = loss, text = ("x"):rep(1000) }
    if step == args.at then os.execute(args.command) end
    if step == args.again then os.execute(args.undo) end
    local go_on = hd.clock() + args.pause
    while hd.clock() < go_on do end
  end
]]

before_each(function() sandbox.open { ["s.lua"] = SCRIPT } end)
after_each(sandbox.close)

-- The arrays of a checkpoint, without the time that was used.
local function arrays(run)
  local tensors, texts = assert(hd.load(path(run .. "/checkpoint.safetensors")))
  tensors["run/seconds"] = nil
  return tensors, texts
end

local function assert_same_run(a, b)
  local x, x_texts = arrays(a)
  local y, y_texts = arrays(b)
  for name, value in next, x do assert.is_true(y[name] ~= nil and value:equal(y[name]), name) end -- order free: all
  for name in next, y do assert.is_truthy(x[name], name) end -- order free: all
  for name, text in next, x_texts do -- order free: all
    if name ~= "hdlua.checksum" then assert.are.equal(text, y_texts[name], name) end
  end
end

-- Steps 1 to n stand in the log once each, in order.
local function assert_log(run, n)
  local seen = {}
  for entry in logs.entries(path(run .. "/log.jsonl")) do
    if not entry.event then seen[#seen + 1] = entry.step end
  end
  local expected = {}
  for i = 1, n do expected[i] = i end
  assert.are.same(expected, seen)
end

local function times(text, words) return select(2, text:gsub(words:gsub("%p", "%%%0"), "")) end

describe("a checkpoint", function()
  it("holds all that a script holds: a run in four processes equals one, bit for bit", function()
    shell "$H s.lua --out whole"
    local text, code = shell [[
      $H s.lua --stop-at 1 && $H s.lua --stop-at 4 --resume && $H s.lua --stop-at 13 --resume && $H s.lua --resume]]
    assert.are.equal(0, code, text)
    assert_same_run("whole", "r")
    assert_log("r", 20)
    local tree = checkpoint.load(path "r/checkpoint.safetensors").tree
    assert.are.equal(20, #tree.state.history)
    assert.are.equal(0.25, tree.state.H["a.mean"]:item())
    assert.are.equal("step 20", tree.state.notes.name)
    assert.are.equal(37, tree.run.batches.pictures)
    for _, name in ipairs { "hdlua", "isa", "gemm", "openblas", "core", "threads", "lua" } do
      assert.is_not_nil(core.json_decode(read "r/log.jsonl":match "[^\n]+").versions[name], name)
    end
  end)

  it("goes on with other instructions and products, and says so", function()
    local first, code = shell "HDLUA_ISA=base HDLUA_GEMM=kernel $H s.lua --stop-at 2"
    assert.are.equal(0, code, first)
    local text
    text, code = shell "HDLUA_ISA=base HDLUA_GEMM=blas $H s.lua --stop-at 4 --resume"
    assert.are.equal(0, code, text)
    local note = "the checkpoint comes from products by kernel, this is blas: the last bits may differ"
    assert.are.equal(1, times(text, note), text)
    assert.are.equal(1, times(read "r/log.jsonl", note))
    text, code = shell "HDLUA_GEMM=blas $H s.lua --resume"
    assert.are.equal(0, code, text)
    local _, isa = hd.backend()
    local differs = isa ~= "base" and isa ~= "neon"
    note = "the checkpoint comes from instruction set base, this is " .. isa
    assert.are.equal(differs and 1 or 0, times(text, note), text)
    assert_log("r", 20)
  end)

  it("is seen to be damaged whichever bit changes, and the one before it is taken", function()
    shell "$H s.lua --stop-at 4"
    local file = path "r/checkpoint.safetensors"
    local bytes = read "r/checkpoint.safetensors"
    local header = 8 + string.unpack("<I8", bytes)
    local n, random = 0, hd.rng(tonumber(os.getenv "HDLUA_SEED") or os.time())
    local function check(i, bit)
      local changed = string.char(bytes:byte(i) ~ 1 << bit)
      write("r/checkpoint.safetensors", bytes:sub(1, i - 1) .. changed .. bytes:sub(i + 1))
      local found, message = checkpoint.load(file)
      assert.are.equal(3, found.tree.run.step, ("bit %d of byte %d"):format(bit, i))
      assert.matches("checkpoint.safetensors", message, 1, true)
      n = n + 1
    end
    for i = 1, header, 20 do check(i, i % 8) end
    for _ = 1, rounds.times(200, 20000) do
      check(header + 1 + math.floor(random:number() * (#bytes - header)), n % 8)
    end
    rounds.count("%d changed bits found", n)
    local text = shell "$H s.lua --resume --stop-at 6"
    assert.matches("is damaged: its checksum is %x+, expected %x+; going on from the checkpoint before it", text)
    assert.matches("resuming 'r' at step 3", text, 1, true)
    assert.are.equal(#bytes, #read "r/checkpoint.safetensors.damaged")
    os.remove(file)
    assert.are.equal(5, checkpoint.load(file).tree.run.step) -- from .prev, which the damaged one has not become
  end)

  it("that was cut is said to be truncated, with the bytes there and those expected", function()
    shell "$H s.lua --stop-at 4"
    local file, bytes = path "r/checkpoint.safetensors", read "r/checkpoint.safetensors"
    for _, size in ipairs { 0, 7, 8, 100, 5000, #bytes // 2, #bytes - 1 } do
      write("r/checkpoint.safetensors", bytes:sub(1, size))
      local found, message = checkpoint.load(file)
      assert.are.equal(3, found.tree.run.step)
      local got, expected = message:match "is truncated: got (%d+) bytes, expected at least (%d+)"
      assert.are.equal(size, tonumber(got))
      assert.is_true(tonumber(expected) > size and tonumber(expected) <= #bytes)
    end
    os.remove(file)
    assert.matches("is missing", select(2, checkpoint.load(file)), 1, true)
    os.remove(file .. ".prev")
    assert.is_nil(checkpoint.load(file))
    write("r/checkpoint.safetensors", "x")
    local text, code = shell "$H s.lua --resume"
    assert.are.equal(1, code)
    assert.matches("run.new: cannot resume: '.-' is truncated: got 1 bytes", text)
  end)

  it("with values that are not finite is resumed, and that is said", function()
    shell "$H s.lua --stop-at 3"
    local found = assert(checkpoint.load(path "r/checkpoint.safetensors"))
    found.tree.state.scale:set(2, 0 / 0)
    assert(checkpoint.save(path "r/checkpoint.safetensors", found.tree, found.texts))
    local text = shell "$H s.lua --resume --stop-at 4"
    assert.matches("run: 'r/checkpoint.safetensors' holds 1 values that are not finite: state/scale (1)", text, 1, true)
    assert.matches("resuming 'r' at step 3", text, 1, true)
  end)

  it("puts tables back as they were, and refuses what does not fit", function()
    local state = { list = {}, notes = { a = 1, gone = 2 }, w = hd.zeros { 1 } }
    local before = checkpoint.snapshot { list = { 1.5, 2.5 }, notes = { a = 3, old = { "x" } }, w = hd.ones { 1 } }
    checkpoint.restore(state, before)
    assert.are.same({ 1.5, 2.5 }, state.list)
    assert.are.same({ a = 3, old = { "x" } }, state.notes)
    assert.are.equal(1, state.w:get(1))
    local function message(current, tree) return select(2, pcall(checkpoint.restore, current, tree)) end
    assert.matches("it holds 'more', which is not in the state", message({}, { more = 1 }), 1, true)
    assert.matches("'n' is missing", message({ n = 1 }, {}), 1, true)
    assert.matches("'n' is wrong: got 1, expected table", message({ n = {} }, { n = 1 }), 1, true)
  end)

  it("packs lists of numbers as one tensor and refuses what it could not read back", function()
    local long = {}
    for i = 1, 70000 do long[i] = i + 0.5 end
    local state = { long = long, mixed = { 1, 2.5 }, holes = { 1, nil, 3 }, [-1] = "minus", whole = { 1 << 62, -5 } }
    assert(checkpoint.save(path "c.safetensors", state, {}))
    assert.are.same(state, checkpoint.load(path "c.safetensors").tree)
    for _, bad in ipairs { { ["[-1]"] = 1 }, { [""] = 1 }, { [true] = 1 }, { s = "\xFF" }, { s = "a\0b" } } do
      assert.has_error(function() checkpoint.pack(bad) end)
    end
  end)

  it("of other data is refused", function()
    shell "$H s.lua --stop-at 3"
    local text, code = shell [[sed -i 's/{ 37, 1/{ 38, 1/' s.lua; $H s.lua --resume]]
    assert.are.equal(1, code)
    assert.matches("'pictures' differs: got 37, expected 38", text, 1, true)
  end)

  it("is what it was after any fault of any system call, and the log lacks nothing", function()
    local view = core.options.view
    local faults, lines = 0, 0
    local run <close> = assert(hd.run.new { out = path "r", state = { w = hd.zeros { 100 } } })
    run.say = function() end
    for _, fault in ipairs { "ENOSPC", "EIO", "EINTR", "SHORT" } do
      local nth, came = 0, true
      while came do
        nth, run.step = nth + 1, run.step + 1
        core.file_fault(nth, fault)
        run:log { loss = 1 }
        local done, message = run:save()
        came = core.file_fault(0)
        local found = assert(checkpoint.load(run.path))
        assert.is_true(found.tree.run.step == run.step or (not done and found.tree.run.step >= run.step - nth))
        assert.is_true(done or (message:match "cannot save" and message:match ": .+: %u") ~= nil, message)
        if fault == "EINTR" or fault == "SHORT" or not came then assert.is_true(done, message) end
        faults, lines = faults + 1, lines + 1
      end
    end
    assert(run:save())
    assert_log("r", lines)
    assert.are.equal("checkpoint.safetensors\ncheckpoint.safetensors.prev\nlog.jsonl\nrun.lock\n", (shell "ls -A r"))
    assert.is_true(faults > 40)
    rounds.count("%d faults of system calls of a run", faults)
    core.options.view = view
  end)

  it("lies beside no temporary of a dead process once a run has begun", function()
    shell "$H s.lua --stop-at 2"
    write("r/checkpoint.safetensors.tmp.999999999", "x")
    write("r/loss.png.tmp.999999999", "x")
    write("r/log.jsonl.tmp.1", "x") -- alive
    shell "$H s.lua --resume --stop-at 2"
    assert.is_nil(read "r/checkpoint.safetensors.tmp.999999999")
    assert.is_nil(read "r/loss.png.tmp.999999999")
    assert.are.equal("x", read "r/log.jsonl.tmp.1")
  end)
end)

describe("the log", function()
  it("keeps every line that is not of a later step", function()
    local text = '{"step":1}\n{"event":"end","step":1}\nodd\n{"step":2}\n{"step":3}\n{"text":"no step"}\n'
    local expected = text:gsub('{"step":3}\n', "")
    write("log.jsonl", text .. '{"step":2,"cut')
    assert.is_true(logs.trim(path "log.jsonl", 2))
    assert.are.equal(expected, read "log.jsonl")
    core.file_fault(1, "ENOSPC") -- nothing to drop: nothing is written
    assert.is_true(logs.trim(path "log.jsonl", 2))
    assert.is_false(core.file_fault(0))
    assert.is_true(logs.trim(path "none.jsonl", 2))
  end)
end)

describe("one folder", function()
  -- Start a run in the background and wait until it trains; $p is its process.
  local function beside(options, command)
    return shell(([[$H s.lua %s --pause 0.05 >first.txt & p=$!
      while ! grep -q '"loss"' r/log.jsonl 2>/dev/null; do sleep 0.02; done
      %s]]):format(options, command))
  end

  it("takes one run: the second is refused, with the process of the first and what it runs", function()
    local text = beside("", [[echo first $p.; $H s.lua --steps 3; echo code $?; $H s.lua --resume; echo code $?
      wait $p; echo code $?; ls -d r*]])
    local first = text:match "first (%d+)"
    local message = ("run.new: 'r' is in use by process %s: "):format(first)
    assert.are.equal(2, times(text, message), text)
    assert.matches("hdlua s.lua --pause 0.05", text, 1, true)
    assert.are.equal(2, times(text, "code 1\n"))
    assert.matches("code 0\nr\n$", text) -- the first went on to its end, its folder was not moved
    assert.are.equal("checkpoint.safetensors\ncheckpoint.safetensors.prev\nlog.jsonl\nloss.png\n", (shell "ls -A r"))
    assert_log("r", 20)
  end)

  it("is free as soon as its process was killed, children or not", function()
    local text = beside("--at 1 --command 'sleep 5 & echo $! >child'", [[
      kill -9 $p; wait $p; kill -0 $(cat child) && echo alive
      $H s.lua --resume; echo code $?; kill $(cat child)]])
    assert.matches("alive", text, 1, true)
    assert.matches("code 0\n$", text)
    assert_log("r", 20)
  end)

  it("is refused to a second run of the same process too, until the first is closed", function()
    local first = assert(hd.run.new { out = path "here" })
    for _, resume in ipairs { false, true } do
      local second, message = hd.run.new { out = path "here", resume = resume }
      assert.is_nil(second)
      assert.matches("run.new: '.*here' is in use by process %d+: .*hdlua", message)
    end
    assert.is_nil(core.path_kind(path "here.1"))
    first:close()
    local third <close> = assert(hd.run.new { out = path "here", resume = true })
    assert.are.equal(0, third.step)
  end)

  it("that cannot be locked is used all the same, and that is said once", function()
    write("u.lua", [[
      local hd, core = require "hd", require "hd.core"
      core.file_fault(2, "ENOLCK") -- opening the lock, locking it
      local run = assert(hd.run.new { out = "r", save_every = 0 })
      assert(core.file_fault(0))
      for _ in run:steps(function() end, 3) do run:log { loss = 1 } end
      run:close()]])
    local text, code = shell "$H u.lua"
    assert.are.equal(0, code, text)
    assert.are.equal(1, times(text, "run: 'r' cannot be locked (No locks available): start no second run there"), text)
    assert_log("r", 3)
  end)

  it("that vanishes is made again, log and all, and the run goes on", function()
    shell "$H s.lua --out whole"
    local text, code = shell "$H s.lua --at 5 --command 'rm -r r'"
    assert.are.equal(0, code, text)
    assert.matches("run: 'r' was gone: made it again", text, 1, true)
    assert_same_run("whole", "r")
    assert_log("r", 20)
    text = shell "$H s.lua --out again --at 20 --command 'rm -r again'" -- behind the last step, all is saved once more
    assert.matches("run: 'again' was gone", text, 1, true)
    assert_same_run("whole", "again")
    -- it cannot be made meanwhile
    text = shell "$H s.lua --out f --at 5 --command 'rm -r f; touch f' --again 9 --undo 'rm f'"
    assert.are.equal(1, times(text, "run: the checkpoint was not written: cannot make the folder 'f'"), text)
    assert.are.equal(1, times(text, "run: the log has to wait: cannot make the folder 'f'"))
    assert.are.equal(1, times(text, "run: the log is written again"))
    assert.are.equal(1, times(text, "run: the checkpoint is written again"))
    assert_same_run("whole", "f")
    assert_log("f", 20)
  end)

  it("that another run has taken meanwhile is left to it", function()
    write("take.sh", [[
      mv r moved
      $H s.lua --pause 0.2 >second.txt & echo $! >second
      while ! [ -e r/checkpoint.safetensors ]; do sleep 0.02; done]])
    write("leave.sh", "kill -9 $(cat second); until flock -n r/run.lock true; do sleep 0.02; done")
    local text, code = shell "$H s.lua --at 5 --command '. ./take.sh' --again 12 --undo '. ./leave.sh'"
    assert.are.equal(0, code, text)
    local refused = "run: the checkpoint was not written: 'r' "
    assert.are.equal(1, times(text, refused .. "is in use by process " .. read "second":match "%d+"), text)
    assert.are.equal(1, times(text, refused .. "holds another run now: move that away"), text)
    assert_log("moved", 5)
    local saved = checkpoint.load(path "r/checkpoint.safetensors").tree.run.step
    local lines = times(read "r/log.jsonl", '"loss"')
    assert.is_true(lines == saved or lines == saved + 1)
  end)
end)

-- Mounts -----------------------------------------------------------------------------------------------------------

-- How to get a shell that may mount; nil where the system does not permit it.
local function mounting()
  for _, way in ipairs { "unshare -rm", "unshare -m" } do
    if os.execute(way .. " sh -c 'mount -t tmpfs none /mnt' 2>/dev/null") then return way end
  end
end

describe("a disk", function()
  local way = mounting()
  local function needs_mount(name, test)
    it(name, function()
      if way then return test() end
      rounds.count("skipped, mounting is not permitted here: a disk %s", name)
      pending "mounting is not permitted here"
    end)
  end
  local function mounted(command)
    write("m.sh", command)
    return shell(("mkdir d; H=$H %s sh -c 'mount -t tmpfs -o size=500k none d && . ./m.sh; cp -r d/r r'"):format(way))
  end

  needs_mount("that is full loses nothing: training goes on and is saved when there is room again", function()
    shell "$H s.lua --out whole"
    local text = mounted [[
      $H s.lua --out d/r --at 5 --command 'cat /dev/zero 2>/dev/null >d/fill' --again 11 --undo 'rm d/fill'
      echo code $?]]
    assert.matches("code 0\n", text, 1, true)
    assert.are.equal(1, times(text, "run: the checkpoint was not written: "), text)
    assert.matches("not written: cannot save '[^']*/checkpoint.safetensors': writing: No space left on device", text)
    assert.are.equal(1, times(text, "run: the log has to wait: cannot write 'd/r/log.jsonl': writing: No space left"))
    assert.are.equal(1, times(text, "run: the log is written again, no line is missing"))
    assert.are.equal(1, times(text, "run: the checkpoint is written again"))
    assert_same_run("whole", "r")
    assert_log("r", 20)
  end)

  needs_mount("that stays full leaves the last checkpoint to go on from", function()
    local text = mounted [[
      $H s.lua --out d/r --at 5 --command 'cat /dev/zero 2>/dev/null >d/fill'; echo code $?
      rm d/fill; ls -A d/r; $H s.lua --out d/r --resume]]
    assert.matches("code 0\n", text, 1, true)
    assert.is_nil(text:find "%.tmp%.")
    assert.matches("resuming 'd/r' at step 4", text, 1, true)
    shell "$H s.lua --out whole"
    assert_same_run("whole", "r")
    assert_log("r", 20)
  end)

  needs_mount("that becomes read-only is waited for", function()
    shell "$H s.lua --out whole"
    local text = mounted [[
      $H s.lua --out d/r --at 5 --command 'mount --bind d/r d/r; mount -o remount,ro,bind d/r' --again 11 \
        --undo 'umount d/r'; echo code $?]]
    assert.matches("code 0\n", text, 1, true)
    assert.are.equal(1, times(text, "run: the checkpoint was not written: "), text)
    assert.matches("cannot save '[^']*': creating a file in its folder: Read%-only file system", text)
    assert_same_run("whole", "r")
    assert_log("r", 20)
  end)

  needs_mount("that is read-only from the start is refused", function()
    local text = mounted [[mkdir d/r; mount -o remount,ro d; $H s.lua --out d/r; echo code $?; $H s.lua --out d/new]]
    assert.matches("run.new: cannot write 'd/r/run.lock': opening: Read-only file system", text, 1, true)
    assert.matches("code 1\n", text, 1, true)
    assert.matches("run.new: cannot make the folder 'd/new': Read-only file system", text, 1, true)
  end)

  it("quota of file sizes is an error of writing, not the end of the run", function()
    local text, code = shell "ulimit -f 20; $H s.lua"
    assert.are.equal(0, code, text)
    assert.are.equal(1, times(text, "run: the checkpoint was not written: cannot save 'r/checkpoint.safetensors': " ..
      "writing: File too large"), text)
    local log = read "r/log.jsonl"
    assert.is_true(#log > 8000 and log:sub(-1) == "\n") -- 1 KiB each, as many as fit, none cut
    assert_log("r", times(log, '"loss"'))
    assert.is_nil(read "r/checkpoint.safetensors")
  end)
end)
