-- scripts/memory_slope.lua: resident memory over many steps of the loop of examples/train_images.lua itself.
--
--     build/hdlua scripts/memory_slope.lua --steps 10000 --out runs/memory
--
-- The example runs as it is, with small networks; its run object's log is listened to, and every tenth step the
-- resident set is read. Prints the slope of the second half in KiB a step, draws OUT/memory.png, and fails when the
-- slope is 1 KiB a step or more.

local hd = require "hd"
local args = hd.args { steps = 10000, out = "runs/memory", limit = 1.0 }

local function resident_kib()
  local file = assert(io.open "/proc/self/statm")
  local pages = file:read "a":match "^%d+ (%d+)"
  file:close()
  return 4 * tonumber(pages)
end

-- Steps and KiB, every tenth step.
local steps, memory = {}, {}

local Run, count = require "hd.run".Run, 0
local log = Run.log
function Run:log(entry)
  log(self, entry)
  count = count + 1
  if count % 10 == 0 then steps[#steps + 1], memory[#memory + 1] = count, resident_kib() end
end

-- The example with its own command line.
local example = "examples/train_images.lua"
rawset(_G, "arg", { [0] = example, "--data", "shapes", "--size", "16", "--width", "8", "--batch", "8",
  "--steps", tostring(args.steps), "--samples", "0", "--view", "off", "--save-every", "60", "--out", args.out })
dofile(example)

-- Least squares over the second half.
local first = #steps // 2 + 1
local n, sx, sy, sxx, sxy = 0, 0, 0, 0, 0
for i = first, #steps do
  local x, y = steps[i], memory[i]
  n, sx, sy, sxx, sxy = n + 1, sx + x, sy + y, sxx + x * x, sxy + x * y
end
local slope = (n * sxy - sx * sy) / (n * sxx - sx * sx)

local mib = {}
for i, kib in ipairs(memory) do mib[i] = kib / 1024 end
local plot = hd.plot.lines({ { name = "resident", x = steps, y = mib } },
  { title = "resident memory while training", x_label = "step", y_label = "MiB" })
assert(hd.image.save(args.out .. "/memory.png", plot))
print(("resident memory: %.1f MiB after %d steps, %.1f MiB at the end; the second half rises by %.4f KiB a step")
  :format(mib[1], steps[1], mib[#mib], slope))
os.exit(slope < args.limit and 0 or 1, true)
