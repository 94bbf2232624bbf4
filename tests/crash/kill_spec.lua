-- Runs that are killed again and again, at random moments of their life, and resumed each time in a new process: each
-- kill finds a loadable checkpoint and loses no step that was saved, no lock is left, and in the end model, average,
-- optimizer, generators, losses and samples have the bits of a run that nobody disturbed.

local harness = dofile "tests/crash/harness.lua"
harness.randomise()

local KILLS, STEPS = harness.times(52, 1000) // #harness.variants, 40

-- What the kills met, by the last mark of train.lua; start: none yet.
local counts = harness.counts()

local function tally(name) counts[name] = counts[name] + 1 end

-- Start or resume, kill at a random moment, one in five while it starts; returns the job's last words, or nil where it
-- came to its end before.
local function killed(variant, folder, resume, pace)
  local job = harness.train(folder, harness.options(variant, { steps = STEPS, resume = resume }))
  local early = resume and math.random(5) == 1
  if not early then job:await(resume and "@step" or "@saved") end
  harness.process.sleep(math.random() * (early and 0.06 or 12 * pace))
  job:signal "KILL"
  local how, text = job:finish()
  local mark = text:match ".*@(%l+)"
  if mark == "done" then return nil end
  assert.are.equal("signal 9", how, text)
  tally(mark or "start")
  return text
end

local function chain(variant, whole, pace)
  local folder, kills, saved = harness.folder(), 0, nil
  while kills < KILLS do
    local text = killed(variant, folder, saved ~= nil, pace)
    if text == nil then
      tally "done"
      harness.same_final(whole, folder)
      harness.remove(folder)
      folder, saved = harness.folder(), nil
    else
      kills = kills + 1
      if saved then
        local resumed = text:match "resuming '[^']*' at step (%d+)"
        assert.is_true(resumed == nil and not text:find "@" or tonumber(resumed) == saved, text)
      end
      local now, message = harness.saved_step(folder)
      assert.is_truthy(now, message or "no checkpoint")
      if message then tally "fallback" end
      local promised = tonumber(text:match ".*@saved (%d+)") or saved
      assert.is_true(now >= promised and now <= promised + 1, ("%d promised, %d there"):format(promised, now))
      saved = now
    end
  end
  local how, text = harness.train(folder, harness.options(variant, { steps = STEPS, resume = true })):finish()
  assert.are.equal("exit 0", how, text)
  assert.matches(("at step %d"):format(saved), text, 1, true)
  harness.same_final(whole, folder)
  assert.are.same({}, harness.leftovers(folder))
  harness.remove(folder)
end

describe("a killed run", function()
  for _, variant in ipairs(harness.variants) do
    it("goes on with the same bits: " .. harness.name(variant), function()
      local whole, pace = harness.whole(variant, { steps = STEPS })
      chain(variant, whole, pace)
      harness.remove(whole)
    end)
  end

  it("was killed everywhere", function()
    local n = KILLS * #harness.variants
    harness.count("%d SIGKILLs, all after a checkpoint and before the end: %d while starting, %d inside a step, " ..
      "%d inside a save, %d between; %d went on from the checkpoint before; %d runs were quicker", n,
      counts.start, counts.step, counts.save, counts.saved, counts.fallback, counts.done)
    assert.are.equal(n, counts.start + counts.step + counts.save + counts.saved)
    assert.is_true(n < 50 or counts.start > 0 and counts.step > 0 and counts.save > 0)
  end)
end)
