-- Whole training runs, each in a process of its own, leave the same bytes (weights, average, optimizer, generators,
-- every loss, samples) on 1, 2, 3, 8 and 16 threads: for each way to compute products and convolutions and each
-- instruction set that the processor has. The team is as large as asked for, and at least two threads of it work.

local harness = dofile "tests/crash/harness.lua"

local THREADS = { 1, 2, 3, 8, 16 }
-- Large enough that every convolution, norm and sum is cut into pieces.
local OPTIONS = { steps = 3, size = 16, width = 16, batch = 16, save_every = 1000, watch = true }

local runs, methods, hashes = 0, 0, {}

-- The instruction sets of this processor, best first.
local function instruction_sets()
  local list, seen = {}, {}
  for _, wanted in ipairs { "avx512", "avx2", "base" } do
    local pipe <close> = io.popen(("HDLUA_ISA=%s %s --version"):format(wanted, harness.hdlua))
    local isa = pipe:read "a":match "instruction set (%w+)"
    if not seen[isa] then list[#list + 1] = isa end
    seen[isa] = true
  end
  return list
end

-- What a run on so many threads leaves.
local function bytes_of(variant, threads, environment)
  local folder, options = harness.folder(), harness.options(variant, OPTIONS)
  options.threads = threads
  local how, text = harness.train(folder, options, environment):finish()
  assert.are.equal("exit 0", how, text)
  local team, workers = text:match "@team (%d+) (%d+)"
  assert.are.equal(threads, tonumber(team))
  assert.is_true(tonumber(workers) >= math.min(2, threads), text)
  local bytes = harness.final(folder)
  harness.remove(folder)
  runs = runs + 1
  return bytes
end

local function same_on(list, variant, environment)
  local expected
  for _, threads in ipairs(list) do
    local bytes = bytes_of(variant, threads, environment)
    expected = expected or bytes
    assert.is_true(bytes == expected, ("%d threads: other bytes than %d"):format(threads, list[1]))
  end
  methods = methods + 1
  if variant == harness.variants[1] then hashes[expected] = true end
end

describe("a training run has the same bits on any number of threads:", function()
  for _, variant in ipairs(harness.variants) do
    it(harness.name(variant), function() same_on(THREADS, variant) end)
  end

  for _, isa in ipairs(instruction_sets()) do
    for _, gemm in ipairs { "kernel", "blas" } do
      for _, conv in ipairs { "winograd", "shift" } do
        local environment = { "HDLUA_ISA=" .. isa, "HDLUA_GEMM=" .. gemm, "HDLUA_CONV=" .. conv }
        it(table.concat(environment, " "), function()
          same_on(harness.long and THREADS or { 1, 3 }, harness.variants[1], environment)
        end)
      end
    end
  end

  it("in every process", function()
    local list = {}
    for i = 1, harness.times(3, 10) do list[i] = 3 end
    same_on(list, harness.variants[1])
  end)

  it("was asked of different methods", function()
    local different = 0
    for _ in pairs(hashes) do different = different + 1 end
    harness.count("%d runs: one result for each of %d ways to compute; these gave %d different results", runs, methods,
      different)
    assert.is_true(different >= 2)
  end)
end)
