-- A run that is stopped by --stop-at at random steps, and resumed each time in a new process with another number of
-- threads, has the bits of one that went through. Those stopped by signals: signal_spec.lua, kill_spec.lua.

local harness = dofile "tests/crash/harness.lua"
harness.randomise()

local STEPS, ROUNDS = 30, harness.times(1, 10)

-- Three steps to stop at, rising.
local function stops()
  local list = { math.random(STEPS - 1), math.random(STEPS - 1), math.random(STEPS - 1) }
  table.sort(list)
  return list
end

-- The threads go 1, 2, 3, 1.
local function in_pieces(variant)
  local folder, list = harness.folder(), stops()
  for i = 1, #list + 1 do
    local options = { steps = STEPS, save_every = 1000, threads = (i - 1) % 3 + 1, stop_at = list[i], resume = i > 1 }
    local how, text = harness.train(folder, harness.options(variant, options)):finish()
    assert.are.equal("exit 0", how, text)
    assert.are.equal(list[i] or STEPS, (harness.saved_step(folder)))
    assert.is_true(i == 1 or text:find("at step " .. list[i - 1], 1, true) ~= nil, text)
  end
  return folder
end

describe("a stopped run", function()
  for _, variant in ipairs(harness.variants) do
    it("goes on with the same bits: " .. harness.name(variant), function()
      local whole = harness.whole(variant, { steps = STEPS, save_every = 1000 })
      for _ = 1, ROUNDS do
        local folder = in_pieces(variant)
        harness.same_final(whole, folder)
        harness.remove(folder)
      end
      harness.remove(whole)
    end)
  end

  it("was stopped often", function()
    harness.count("%d stops by --stop-at, each resumed with the same bits", 3 * ROUNDS * #harness.variants)
  end)
end)
