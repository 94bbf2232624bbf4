-- SIGINT, SIGTERM and SIGHUP at random moments of a training run, with and without a window: the step at hand is
-- finished and saved, the process ends with 130 and leaves no window, and the run goes on with the same bits. A second
-- signal kills. The window's process never outlives a killed run. Without hd.run: app_spec.lua.

local hd = require "hd"
local harness = dofile "tests/crash/harness.lua"
harness.randomise()
local process = harness.process

local STEPS = 40
local SIGNALS = harness.times(26, 50) -- to each variant, half SIGINT and half SIGTERM; one SIGHUP more in twelve
local GRACE = 2 -- seconds from signal to end, on top of a step

local WINDOW = { "-u", "DISPLAY", "SDL_VIDEODRIVER=dummy" }

local counts, slowest = harness.counts(), 0

local function start(variant, folder, options, window)
  options.view = window and "window" or "off"
  options.window, options.steps, options.save_every = window or nil, STEPS, 1000
  return harness.train(folder, harness.options(variant, options), window and WINDOW or nil)
end

local function all_gone(children)
  local stop = hd.clock() + 20
  for _, pid in ipairs(children) do
    while not harness.gone(pid) do
      assert.is_true(hd.clock() < stop, "the window's process is still there")
      process.sleep(0.005)
    end
  end
end

-- The longest time between two marks of steps.
local function longest_step(text)
  local before, longest = nil, 0
  for clock in text:gmatch "@step %d+ ([%d.]+)" do
    if before then longest = math.max(longest, clock - before) end
    before = tonumber(clock)
  end
  return longest
end

-- Start or resume, send the signal at a random moment; the step that is saved, or nil where the run was done before.
local function signalled(variant, folder, name, resume, pace, window)
  local job = start(variant, folder, { resume = resume }, window)
  job:await(resume and "resuming" or "@step")
  process.sleep(math.random() * 12 * pace)
  local children = job:children()
  local sent = hd.clock()
  job:signal(name)
  local how, text = job:finish()
  local delay = hd.clock() - sent
  all_gone(children)
  if text:find "@done" then return nil end
  assert.are.equal("exit 130", how, text)
  assert.is_true(delay <= GRACE + longest_step(text), ("it took %.2f s to end"):format(delay))
  slowest = math.max(slowest, delay)
  counts[name] = counts[name] + 1
  if #children > 0 then counts.window = counts.window + 1 end
  local step = tonumber(text:match "interrupted after step (%d+): saved, %-%-resume goes on from there")
  assert.are.equal(tonumber(text:match ".*@step (%d+)") or tonumber(text:match "at step (%d+)"), step, text)
  return step
end

local function chain(variant, whole, pace, names)
  local folder, saved = harness.folder(), nil
  local i = 1
  while i <= #names do
    local step = signalled(variant, folder, names[i], saved ~= nil, pace, i % 2 == 0)
    if step then
      assert.are.same({ step }, { harness.saved_step(folder) }) -- the newest, without complaint
      saved, i = step, i + 1
    else
      harness.same_final(whole, folder)
      harness.remove(folder)
      folder, saved = harness.folder(), nil
    end
  end
  local how, text = start(variant, folder, { resume = true }):finish()
  assert.are.equal("exit 0", how, text)
  harness.same_final(whole, folder)
  harness.remove(folder)
end

local function names_of_signals()
  local names = {}
  for i = 1, SIGNALS do
    names[#names + 1] = i % 2 == 0 and "INT" or "TERM"
    if i % 12 == 1 then names[#names + 1] = "HUP" end
  end
  for i = #names, 2, -1 do
    local k = math.random(i)
    names[i], names[k] = names[k], names[i]
  end
  return names
end

describe("a signal in training", function()
  for _, variant in ipairs(harness.variants) do
    it("saves, ends with 130 and can be resumed: " .. harness.name(variant), function()
      local whole, pace = harness.whole(variant, { steps = STEPS, save_every = 1000 })
      chain(variant, whole, pace, names_of_signals())
      harness.remove(whole)
    end)
  end

  it("came in every kind", function()
    harness.count("%d SIGINT, %d SIGTERM, %d SIGHUP, %d of them with a window: all saved, exit 130, resumed; " ..
      "the slowest took %.2f s", counts.INT, counts.TERM, counts.HUP, counts.window, slowest)
    assert.are.equal(SIGNALS * #harness.variants, counts.INT + counts.TERM)
    assert.is_true(counts.window >= SIGNALS)
  end)

  it("kills where it is the second one", function()
    local script = os.tmpname()
    local file <close> = io.open(script, "w")
    file:write [[
      local hd = require "hd"
      hd.interrupted()
      io.stdout:setvbuf "no"
      print "claimed"
      while not hd.interrupted() do end
      print "seen"
      local x = hd.zeros { 300, 300 }
      while true do x = x:matmul(x) end]]
    file:close()
    local times, worst, names = harness.times(50, 100), 0, { "INT", "TERM", "HUP" }
    for i = 1, times do
      local first, second = names[i % 3 + 1], names[i // 3 % 3 + 1]
      local job = harness.start { harness.hdlua, "--threads", "2", script }
      job:await "claimed"
      job:signal(first)
      job:await "seen"
      process.sleep(math.random() * 0.02)
      local sent = hd.clock()
      job:signal(second)
      assert.are.equal("signal " .. process[second], (job:finish()))
      worst = math.max(worst, hd.clock() - sent)
    end
    os.remove(script)
    harness.count("%d second signals: all killed, the slowest after %.2f s", times, worst)
    assert.is_true(worst < 1)
  end)

  it("ends a run whose reader has gone: SIGPIPE keeps its default", function()
    local folder = harness.folder()
    local command = ("{ %s tests/crash/train.lua --steps 100000 --out %s/run; echo $? >%s/code; } | head -n 1")
    os.execute(command:format(harness.hdlua, folder, folder))
    assert.are.equal(128 + process.PIPE, tonumber(harness.read(folder .. "/code")))
    harness.remove(folder)
  end)
end)

describe("the window's process", function()
  it("ends with a run that is killed", function()
    local times, seen = harness.times(20, 100), 0
    local folder = harness.folder()
    for i = 1, times do
      local job = start(harness.variants[3], folder, {}, true)
      job:await "@step"
      process.sleep(math.random() * 0.1) -- while it opens too
      local children, stop = job:children(), hd.clock() + 20
      while i % 2 == 1 and #children == 0 and hd.clock() < stop do -- and once it is there
        process.sleep(0.005)
        children = job:children()
      end
      job:signal "KILL"
      job:finish()
      children = #children > 0 and children or job:children()
      seen = seen + #children
      all_gone(children)
    end
    harness.count("%d runs with a window killed: %d window processes seen, all ended", times, seen)
    assert.is_true(seen > 0)
    harness.remove(folder)
  end)
end)
