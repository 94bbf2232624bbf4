-- hd.run: folder, log, checkpoints, resume, interrupts, planning, pictures; the trees of run/checkpoint.
-- Scripts run in processes of their own under the program that runs this, named by HDLUA.

local hd = require "hd"
local core = require "hd.core"
local checkpoint = require "hd.run.checkpoint"
local logs = require "hd.run.log"
local sandbox = require "tests.lua.sandbox"
local path, read, write, shell = sandbox.path, sandbox.read, sandbox.write, sandbox.shell

local SCRIPT = [[
  local hd = require "hd"
  local args = hd.args { out = "r", steps = 20, resume = false, stop_at = hd.args.integer, lr = 1e-2, width = 8,
    pause = 0.0, draw = false, nan_at = 0, save_every = 30.0, minutes = hd.args.number }
  hd.threads(1) -- tiny tensors, and the machine may be busy
  local net = hd.nn.Sequential(hd.nn.Linear(4, args.width), hd.nn.SiLU(), hd.nn.Linear(args.width, 4))
  local opt = hd.optim.AdamW(net:parameters(), { lr = args.lr })
  local ema = hd.optim.EMA(net)
  local own, counter = hd.rng(5), { n = 0, name = "x" }
  local run <close> = assert(hd.run.new { out = args.out, settings = { lr = args.lr, steps = args.steps,
    out = args.out }, resume = args.resume, save_every = args.save_every,
    state = { net = net, opt = opt, ema = ema, own = own, counter = counter } })
  local function train(x)
    local loss = ((net(x) - x) ^ 2):mean() + hd.rand({ 1 }, { rng = own }):sum() * 0.01
    opt:zero_grad()
    loss:backward()
    opt:step()
    ema:update()
    return loss
  end
  local set = hd.data.Set(hd.randint(0, 255, { 37, 1, 2, 2 }, { rng = hd.rng(9) }):to "u8")
  local steps = args.steps
  local function wait() -- not os.execute, which ignores SIGINT meanwhile
    local go_on = hd.clock() + args.pause
    while hd.clock() < go_on do end
  end
  if args.minutes then
    steps = run:plan(args.minutes, function()
      train(hd.randn { 8, 4 })
      wait()
    end)
  end
  run.state.rate = hd.optim.lr.cosine(opt, { steps = steps, warmup = 3 })
  for step, x in run:steps(set:batches { size = 8, flip = true }, steps, { stop_at = args.stop_at }) do
    local loss = train(x:reshape(8, 4) + hd.randn { 8, 4 } * 0.1)
    run.state.rate:step()
    counter.n = counter.n + 1
    run:log { loss = step == args.nan_at and 0 / 0 or loss, levels = { b = loss, a = 2 } }
    wait()
    local watch = run:watch()
    while args.draw do watch() end
  end
  print(("weights %.17g ema %.17g own %s n %d"):format(net[1].weight:norm():item(), ema.model[1].weight:norm():item(),
    table.concat(own:state(), ","), counter.n))
]]

-- Shell commands that wait until a run with the id in $p has come so far.
local OPENED = "while ! grep -q start r/log.jsonl; do sleep 0.02; done 2>/dev/null; "
local ONE_STEP = "while ! grep -q '^step 1/' out.txt; do sleep 0.02; done; "

local function weights(text) return text:match "weights [^\n]+" end

before_each(function() sandbox.open { ["s.lua"] = SCRIPT } end)
after_each(sandbox.close)

describe("a run", function()
  it("goes to its end with a log, plain progress lines and a checkpoint", function()
    local text, code = shell "$H s.lua"
    assert.are.equal(0, code)
    assert.matches("step 20/20 .+ samples/s  loss %d.%d+  a 2.0000  b %d.%d+  rate %d.+e[+-]%d+  ETA 0:00\n", text)
    assert.is_nil(text:find("\r", 1, true))
    local steps = {}
    for entry in logs.entries(path "r/log.jsonl") do
      if not entry.event then steps[#steps + 1] = entry.step end
    end
    assert.are.equal(20, #steps)
    local found = assert(checkpoint.load(path "r/checkpoint.safetensors"))
    assert.are.equal(20, found.tree.run.step)
    assert.are.equal("x", found.tree.state.counter.name)
    assert.matches('"lua":"Lua 5.4', found.texts.versions)
  end)

  it("says the most of its progress in the columns that there are", function()
    local progress = require "hd.run.progress" { "shapes", "colours" }
    progress:start(0, 5230)
    local entry = { loss = 1.25, samples_per_s = 310.4, rate = 2e-3, levels = { shapes = 0.5, colours = 0.75 } }
    assert.matches("^step 15/5230  310%.4 samples/s  loss 1%.2500  shapes 0%.5000  colours 0%.7500  rate 2%.00e%-03",
      progress:text(15, entry))
    assert.matches("^15/5230 310/s loss 1%.25 shapes 0%.50 colours 0%.75 rate 2e%-03 ETA", progress:text(15, entry, 79))
    assert.matches("^15/5230 310/s loss 1%.25 shapes 0%.50 colours 0%.75 ETA", progress:text(15, entry, 60))
    assert.are.equal("15/5230 310/s", progress:text(15, entry, 13))
  end)

  it("writes its progress over one line on a terminal", function()
    local text = shell [[script -qec "stty columns 60; $H s.lua" /dev/null]]
    assert.matches("\r1/20 [^\n]*\r20/20 [^\n]*\27%[K\r?\nweights", text)
  end)

  it("stopped and resumed equals one that went through, bit for bit", function()
    local whole = weights(shell "$H s.lua --out whole")
    local text = shell "$H s.lua --stop-at 3 && $H s.lua --stop-at 11 --resume && $H s.lua --resume"
    assert.matches("resuming 'r' at step 11\n", text, 1, true)
    assert.are.equal(whole, text:match ".*\n(weights [^\n]+)")
    local a, b = hd.load(path "whole/checkpoint.safetensors"), hd.load(path "r/checkpoint.safetensors")
    a["run/seconds"], b["run/seconds"] = nil, nil
    for name, x in pairs(a) do assert.is_true(x:equal(b[name]), name) end -- order free: every one is checked
    for name in pairs(b) do assert.is_truthy(a[name], name) end -- order free: every one is checked
  end)

  it("that is finished resumes without doing anything", function()
    local first = weights(shell "$H s.lua")
    local text, code = shell "$H s.lua --resume"
    assert.are.equal(0, code)
    assert.matches("nothing left to do: step 20 of 20 is done", text, 1, true)
    assert.are.equal(first, weights(text))
  end)

  it("moves an earlier run away, and says so", function()
    shell "$H s.lua && echo mark > r/mark"
    local text = shell "$H s.lua --stop-at 1; $H s.lua --stop-at 2"
    assert.matches("moved the earlier run in 'r' to 'r.1'", text, 1, true)
    assert.matches("moved the earlier run in 'r' to 'r.2'", text, 1, true)
    assert.are.equal("mark\n", read "r.1/mark")
  end)

  it("leaves a folder alone that holds no run", function()
    shell "mkdir r && echo mine > r/notes"
    local text = shell "$H s.lua"
    assert.is_nil(text:find "moved")
    assert.are.equal("mine\n", read "r/notes")
  end)

  it("starts from the beginning where there is nothing to resume", function()
    local text, code = shell "$H s.lua --resume"
    assert.are.equal(0, code)
    assert.matches("nothing to resume in 'r': starting from the beginning", text, 1, true)
    assert.are.equal(weights(shell "$H s.lua --out other"), weights(text))
  end)

  it("goes on from the checkpoint before where the newest is damaged", function()
    shell "$H s.lua --save-every 0 --stop-at 9"
    local whole = read "r/checkpoint.safetensors"
    write("r/checkpoint.safetensors", whole:sub(1, -100))
    local text = shell "$H s.lua --resume"
    assert.matches("going on from the checkpoint before it", text, 1, true)
    assert.matches("resuming 'r' at step 8", text, 1, true)
    assert.are.equal(weights(shell "$H s.lua --out other"), weights(text))
    local steps = 0
    for entry in logs.entries(path "r/log.jsonl") do
      if not entry.event then steps = steps + 1 end
    end
    assert.are.equal(20, steps) -- step 9 is there once
  end)

  it("refuses other settings and other models", function()
    shell "$H s.lua --stop-at 5"
    local text, code = shell "$H s.lua --resume --lr 0.5"
    assert.are.equal(1, code)
    assert.matches("of a run with other settings: lr (0.01, now 0.5)", text, 1, true)
    text, code = shell "$H s.lua --resume --width 16"
    assert.are.equal(1, code)
    assert.matches("is of another model: ", text, 1, true)
    assert.matches("0.weight is [8,4], expected [16,4]", text, 1, true)
    assert.matches("s.lua:", text, 1, true)
  end)

  it("refuses a folder that cannot be written", function()
    write("file", "")
    local text, code = shell "$H s.lua --out file/r"
    assert.are.equal(1, code)
    assert.matches("run.new: .*file", text)
  end)

  it("stops at a loss that is no number and keeps the checkpoint from before", function()
    local text, code = shell "$H s.lua --nan-at 7 --save-every 0"
    assert.are.equal(1, code)
    assert.matches("s.lua:%d+: run: step 7 is not finite: got loss nan, expected finite numbers", text)
    assert.are.equal(6, checkpoint.load(path "r/checkpoint.safetensors").tree.run.step)
  end)

  for _, signal in ipairs { "INT", "TERM" } do
    it("saves on SIG" .. signal .. ", ends with 130 and can be resumed", function()
      local stop = ("kill -%s $p; wait $p; echo code $?"):format(signal)
      local text = shell("$H s.lua --pause 0.1 & p=$!; " .. ONE_STEP .. stop)
      assert.matches("code 130\n", text, 1, true)
      local step = tonumber(text:match "interrupted after step (%d+): saved")
      assert.is_true(step > 0 and step < 20)
      assert.are.equal(step, checkpoint.load(path "r/checkpoint.safetensors").tree.run.step)
      local resumed = shell "$H s.lua --resume"
      assert.are.equal(weights(shell "$H s.lua --out other"), weights(resumed))
    end)
  end

  it("ends in the middle of drawing, the step at hand done", function()
    local text = shell("$H s.lua --draw & p=$!; " .. OPENED .. "kill -INT $p; wait $p; echo code $?")
    assert.matches("interrupted after step 1: saved, --resume goes on from there\ncode 130\n", text, 1, true)
    assert.are.equal(weights(shell "$H s.lua --out other"), weights(shell "$H s.lua --resume"))
  end)

  it("is killed by a second signal", function()
    local text = shell("$H s.lua --pause 30 & p=$!; " .. OPENED .. [[
      for i in 1 2 3 4 5; do kill -INT $p; sleep 0.1; done
      wait $p; echo code $?]])
    assert.matches("code 130\n", text, 1, true) -- the shell's 128 + SIGINT
    assert.is_nil(text:find "interrupted after")
  end)

  it("interrupted before the first step leaves nothing to resume", function()
    local text = shell("$H s.lua --minutes 1 --pause 1 & p=$!; " .. OPENED .. "kill -INT $p; wait $p; echo code $?")
    assert.matches("interrupted before the first step was done\ncode 130\n", text, 1, true)
    assert.is_nil(checkpoint.load(path "r/checkpoint.safetensors"))
  end)

  it("plans its steps by the clock, follows the plan and keeps it", function()
    local text = shell "$H s.lua --minutes 0.002 --stop-at 2"
    local planned = tonumber(text:match "s: (%d+) steps in 0.002 minutes")
    assert.is_true(planned >= 1)
    assert.are.equal(planned, checkpoint.load(path "r/checkpoint.safetensors").tree.run.planned)
    local event
    for entry in logs.entries(path "r/log.jsonl") do
      if entry.event == "plan" then event = entry end
    end
    assert.are.equal(planned, event.steps)
    local resumed = shell "$H s.lua --minutes 5 --resume"
    assert.matches(("step %d/%d "):format(planned, planned), resumed, 1, true)
    assert.are.equal(weights(shell(("$H s.lua --out other --steps %d"):format(planned))), weights(resumed))
  end)
end)

describe("in this process", function()
  local function open(opts)
    opts.out = path "here"
    return hd.run.new(opts)
  end

  it("things are due from time to time", function()
    local run <close> = assert(open {})
    local clock, now = core.clock, core.clock()
    core.clock = function() return now end
    assert.is_false(run:due "samples")
    now = now + 61
    assert.is_true(run:due "samples")
    assert.is_false(run:due "samples")
    assert.is_true(run:due("other", 10))
    now = now + 11
    assert.is_true(run:due("other", 10))
    core.clock = clock
    assert.has_error(function() run:due "unknown" end)
  end)

  it("misspelt options are refused", function()
    local fine, message = pcall(open, { rezume = true })
    assert.is_false(fine)
    assert.matches("did you mean 'resume'?", message, 1, true)
  end)

  it("pictures are written level by level beside the joined result", function()
    local view = core.options.view
    core.options.view = "off"
    local run <close> = assert(open { levels = { "shapes", "colours" } })
    local x = hd.full({ 4, 3, 8, 8 }, -1)
    local file = assert(run:show(x, { colours = x * 0, shapes = -x }))
    assert.are.equal(path "here/samples_000000.png", file)
    local picture = assert(hd.image.load(file, { dtype = "u8" }))
    local row, seen = picture:size(2) - 12, {} -- below the labels, through the upper pictures of each grid
    for i = 1, picture:size(3) do
      local value = picture:get(1, row, i)
      if value ~= 255 and value ~= seen[#seen] then seen[#seen + 1] = value end
    end
    assert.are.same({ 128, 0 }, seen) -- shapes (white), colours (grey), joined (black)
    core.options.view = view
  end)

  it("curves are means over spans of the log, drawn to loss.png", function()
    local run <close> = assert(open {})
    for i = 1, 10 do
      run.step = i
      run:log { loss = i, levels = { b = 1, a = 2 } }
    end
    run:plot()
    assert.are.equal(3, hd.image.load(path "here/loss.png"):size(1))
    local curves = logs.curves(path "here/log.jsonl", 10, 5, { "b" })
    assert.are.same({ "loss", "b", "a" }, { curves[1].name, curves[2].name, curves[3].name })
    assert.are.same({ 1.5, 3.5, 5.5, 7.5, 9.5 }, curves[1].y)
    assert.are.same({ 1.5, 3.5, 5.5, 7.5, 9.5 }, curves[1].x)
  end)

  it("a save in the loop's body counts the step at hand", function()
    local w = hd.zeros { 1 }
    local run <close> = assert(open { state = { w = w }, save_every = 1e9 })
    for step in run:steps(function() return 1 end, 5) do
      w:add_(1)
      if step == 3 then assert(run:save()) end
      if step == 4 then break end
    end
    assert.are.equal(3, run.step)
    run:close()
    local again <close> = assert(open { state = { w = w }, resume = true })
    assert.are.equal(3, again:resume())
    assert.are.equal(3, w:get(1))
    assert.has_error(function() again:steps(function() return 1 end, 6) end) -- the checkpoint is of a run of 5
    for step in again:steps(function() return 1 end, 5) do w:add_(step) end
    assert.are.equal(12, w:get(1))
  end)

  it("a loop that was left goes on with the step that was not done", function()
    local run <close> = assert(open {})
    local seen = {}
    for step in run:steps(function() return 1 end, 4) do
      if step == 3 then break end
      seen[#seen + 1] = step
    end
    for step in run:steps(function() return 1 end, 4) do seen[#seen + 1] = step end
    assert.are.same({ 1, 2, 3, 4 }, seen)
  end)

  it("resumes by hand, the place in the batches included", function()
    local set = hd.data.Set(hd.randint(0, 255, { 12, 1, 1, 1 }):to "u8")
    local function first_of(run)
      for _, x in run:steps(set:batches { size = 2 }, 5, { stop_at = 3 }) do
        if run.step == 2 then return x end
      end
    end
    local expected
    do
      local run <close> = assert(open { save_every = 0 })
      expected = first_of(run)
    end
    local run <close> = assert(open { resume = true })
    assert.are.equal(2, run:resume())
    assert.is_true(expected:equal(first_of(run)))
  end)

  it("a failed save says why, and the one before stays", function()
    local w = hd.zeros { 3 }
    local run <close> = assert(open { state = { w = w } })
    assert(run:save())
    local state = run.state
    run.state = { w = w, f = print }
    assert.has_error(function() run:save() end)
    run.state = state
    assert.is_truthy(checkpoint.load(path "here/checkpoint.safetensors"))
  end)
end)

describe("a checkpoint", function()
  it("keeps trees of tensors, numbers and texts exactly", function()
    local state = {
      list = { 1, 2.5, math.mininteger, { "a", false } }, x = hd.tensor { 1.5, 2 }, deep = { er = { n = 1 << 62 } },
    }
    local file = path "c.safetensors"
    assert(checkpoint.save(file, state, { note = "hello" }))
    local found = assert(checkpoint.load(file))
    assert.are.equal("hello", found.texts.note)
    assert.are.same({ 1.5, 2 }, found.tree.x:totable())
    found.tree.x = state.x
    assert.are.same(state, found.tree)
    assert.are.equal("integer", math.type(found.tree.list[1]))
    assert.are.equal("float", math.type(found.tree.list[2]))
  end)

  it("removes what a killed process has left beside it, whatever it was doing", function()
    local file = path "c.safetensors"
    local function save(value) assert(checkpoint.save(file, { n = value }, {})) end
    save(1)
    local dead = shell "sh -c 'echo $$'":match "%d+"
    write("c.safetensors.tmp." .. dead, "cut short")
    shell(("ln c.safetensors c.safetensors.tmp.%s.prev"):format(dead)) -- killed before this name replaced .prev
    save(2)
    shell "ln -f c.safetensors c.safetensors.prev" -- killed between the two renames
    save(3)
    assert.are.equal("c.safetensors\nc.safetensors.prev\nout.txt\ns.lua\n", (shell "ls"))
    assert.are.equal(3, checkpoint.load(file).tree.n)
  end)

  it("refuses names and values that a file cannot hold", function()
    assert.has_error(function() checkpoint.pack { ["a/b"] = 1 } end)
    assert.has_error(function() checkpoint.pack { f = print } end)
  end)

  it("refuses files that are no checkpoints", function()
    assert(hd.save(path "c.safetensors", { x = hd.zeros { 1 } }))
    local found, message = checkpoint.load(path "c.safetensors")
    assert.is_nil(found)
    assert.matches("is no checkpoint of this version", message, 1, true)
  end)

  it("refuses to restore what is missing or of another shape", function()
    local function message(state, tree) return select(2, pcall(checkpoint.restore, state, tree)) end
    assert.matches("'x' is missing", message({ x = hd.zeros { 2 } }, {}), 1, true)
    assert.matches("'x' is tensor f32 [1]", message({ x = hd.zeros { 2 } }, { x = hd.zeros { 1 } }), 1, true)
    assert.matches("'net' is missing", message({ net = hd.nn.Linear(1, 1) }, {}), 1, true)
    assert.matches("'rng' is missing", message({ rng = hd.rng(1) }, {}), 1, true)
  end)

  it("snapshots do not follow later changes", function()
    local state = { x = hd.zeros { 2 }, n = { k = 1 } }
    local before = checkpoint.snapshot(state)
    state.x:add_(1)
    state.n.k = 2
    checkpoint.restore(state, before)
    assert.are.same({ 0, 0 }, state.x:totable())
    assert.are.equal(1, state.n.k)
  end)
end)
