-- tests/memory/run.lua: makes allocations of a scenario fail, one after the other, until it comes through.
--
--     build/hdlua --threads 2 --view off tests/memory/run.lua FOLDER HEAP HOW TRIES SEED [NAME]
--
-- HEAP is native or lua; HOW is all (number n and every one after it fail) or one (number n alone). After each try: the
-- failure was an error that could be caught, native memory is down to what it was, and a control computation gives the
-- bits of the beginning; where one allocation alone failed, the scenario may as well have come through, with the right
-- result. At most TRIES numbers for each scenario, spread evenly from an offset that SEED decides; 0: all of them.

local hd = require "hd"
local core = require "hd.core"

local folder, heap, how, tries, seed, only = table.unpack(arg)
tries, seed = math.tointeger(tries), math.tointeger(seed)
local ALL <const> = 1 << 60

-- The bits of a result: a tensor, a string, or a list of those.
local function bits(x)
  if type(x) == "string" then return x end
  if getmetatable(x) == nil then
    local parts = {}
    for i, part in ipairs(x) do parts[i] = bits(part) end
    return table.concat(parts, "\n")
  end
  local words = {}
  local flat = x:reshape(-1)
  for i = 1, flat:numel() do words[i] = string.format("%q", flat[i]) end -- %q: floats in hexadecimal
  return table.concat(words, " ")
end

-- Forward, backward, optimizer: what a failure before it may not have changed.
local function control()
  local x = hd.randn({ 2, 4, 6, 6 }, { rng = hd.rng(1) })
  local w = hd.randn({ 8, 4, 3, 3 }, { rng = hd.rng(2) }):requires_grad_()
  local opt = hd.optim.AdamW({ w }, { lr = 0.1 })
  for _ = 1, 2 do
    opt:zero_grad()
    hd.nn.functional.conv2d(x, w, nil, { padding = 1 }):silu():mean():backward()
    opt:step()
  end
  return bits(w:detach())
end

local function live()
  collectgarbage()
  collectgarbage()
  return hd.memory().live
end

-- One try: number n fails. Gives what pcall gives.
local function try(scenario, n)
  core.fail_allocations(heap, n, how == "one" and 1 or ALL)
  local ok, result = pcall(scenario.run, folder)
  core.fail_allocations(heap)
  return ok, result
end

local function test(scenario)
  local expected = bits(scenario.run(folder))
  core.fail_allocations(heap)
  local again = scenario.run(folder)
  local _, total = core.fail_allocations(heap)
  assert(bits(again) == expected, "it does not give the same each time")
  local expected_control = control()
  again = nil -- luacheck: ignore
  local step = tries > 0 and total > tries and total / tries or 1
  local before, caught, passed = live(), 0, 0
  local offset = step > 1 and seed * 0.6180339887 % 1 * step or 0
  for i = 0, math.ceil(total / step) - 1 do
    local n = math.floor(offset + i * step) + 1
    local where = (" when number %d of %d fails"):format(n, total)
    local ok, result = try(scenario, n)
    if ok then
      assert(bits(result) == expected, "another result" .. where)
      passed = passed + 1
    else
      assert(type(result) == "string", "the error is no string" .. where)
      caught = caught + 1
    end
    result = nil -- luacheck: ignore
    local now = live()
    assert(now <= before, ("%d bytes more than before are held%s"):format(now - before, where))
    assert(control() == expected_control, "the control computation differs" .. where)
  end
  assert(bits(scenario.run(folder)) == expected, "another result at the end")
  print(("@%s: %d allocations, %d errors caught, %d came through"):format(scenario.name, total, caught, passed))
  return total, caught, passed
end

local scenarios, failed = 0, 0
local totals = { 0, 0, 0 }
for _, scenario in ipairs(dofile "tests/memory/scenarios.lua") do
  if not only or scenario.name == only then
    local result = table.pack(pcall(test, scenario))
    core.fail_allocations(heap)
    if result[1] then
      for i = 1, 3 do totals[i] = totals[i] + result[i + 1] end
    else
      failed = failed + 1
      print(("@%s: FAILED: %s"):format(scenario.name, result[2]))
    end
    scenarios = scenarios + 1
  end
end
print(("@sum: %d scenarios, %d failed, %d allocations, %d errors caught, %d came through"):format(
  scenarios, failed, table.unpack(totals)))
os.exit(failed == 0, true)
