-- Every bound function and every public function of the library, called with random values by
-- tests/fuzz/random_calls.lua: no crash, no hang, no leak, no runaway allocation; what is raised can be caught, says
-- what is wrong and names the caller's line. Each group runs in a process of its own, so that a crash is a failure with
-- a name and a seed. The long form makes ten times as many calls.

local hdlua = assert(os.getenv "HDLUA", "HDLUA must name the binary (tests/run.sh sets it)")

local rounds = require "tests.lua.rounds"

-- Calls of each function in the short form.
local COUNTS = { core = 5000, op = 5000, method = 5000, object = 5000, library = 200 }
local SECONDS = rounds.long and 6000 or 600 -- after which a group counts as hung

local function output_of(command)
  local pipe <close> = assert(io.popen(command))
  return (pipe:read "a":gsub("\n$", ""))
end

local function read(path)
  local file <close> = io.open(path)
  return file and file:read "a" or ""
end

-- Run one group in an empty folder; gives its report and how it ended.
local function run(group)
  local here, folder = output_of "pwd", output_of "mktemp -d"
  local program = ("%s --memory 256M --threads 1 %s/tests/fuzz/random_calls.lua"):format(hdlua, here)
  local command = ("cd %s && timeout %d %s %s %d >out 2>&1 </dev/null"):format(folder, SECONDS, program, group,
    rounds.times(COUNTS[group], 10 * COUNTS[group]))
  local _, how, code = os.execute(command)
  local report, last, out = read(folder .. "/report"), read(folder .. "/last"), read(folder .. "/out")
  os.execute("rm -rf " .. folder)
  return report, ("%s %d in the call %sreplay it in an empty folder: %s replay NAME SEED\n%s"):format(how, code, last,
    program, out:sub(-2000))
end

describe("random calls", function()
  for _, group in ipairs { "core", "op", "method", "object", "library" } do
    it("leave no fault in " .. group, function()
      local report, ended = run(group)
      assert.truthy(report:find "\nEND\n$", ended)
      local faults = {}
      for line in report:gmatch "FAULT [^\n]*" do faults[#faults + 1] = line end
      assert.equal("", table.concat(faults, "\n", 1, math.min(#faults, 40)), ended)
      local functions, calls, raised = 0, 0, 0
      for n, r in report:gmatch "DONE %S+: (%d+) calls, (%d+) raised" do
        functions, calls, raised = functions + 1, calls + tonumber(n), raised + tonumber(r)
      end
      rounds.count("random calls of %s: %d functions, %d calls, %d raised", group, functions, calls, raised)
      assert.truthy(functions > 30 and raised > calls // 4 and raised < calls)
    end)
  end
end)
