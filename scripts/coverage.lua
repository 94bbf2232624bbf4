-- scripts/coverage.lua BUILD [--missing]: how many lines of each folder the tests of a --coverage build ran, from gcov,
-- for `make coverage`. A file compiled several times (kernels, inline functions) counts once, by its best build.
-- --missing: also the lines that were not run. Fails where a folder of NEEDED has less than LEAST per cent.

local LEAST = 85
local NEEDED = { "runtime/core", "runtime/io", "runtime/ops", "runtime/bind", "runtime/autograd" }

local build, missing = arg[1], arg[2] == "--missing"

-- file -> { line number -> "run" or "not run" }, of all builds together
local files = {}

-- gcov -t prints each source as `count:line:text`; count is #### where the line was not run, - where there is none.
local function read(data)
  local gcov <close> = assert(io.popen(("gcov -t -r -s . '%s' 2>&1"):format(data)))
  local lines
  for text in gcov:lines() do
    local count, number, rest = text:match "^ *([^:]+): *(%d+):(.*)"
    number = tonumber(number)
    if number == 0 and rest:find "^Source:" then
      local path = rest:match "^Source:(.*)"
      lines = path:find "^runtime/" and (files[path] or {}) or {}
      files[path] = path:find "^runtime/" and lines or nil
    elseif number and number > 0 and count ~= "-" then
      lines[number] = lines[number] == "run" and "run" or (count:find "^#" and "not run" or "run")
    end
  end
end

for data in assert(io.popen(("find '%s' -name '*.gcda' | sort"):format(build))):lines() do read(data) end

local paths, folders, order = {}, {}, {}
for path in pairs(files) do paths[#paths + 1] = path end -- order free: sorted next
table.sort(paths)
for _, path in ipairs(paths) do
  local name = path:match "^(.*)/"
  local folder = folders[name]
  if not folder then
    folder = { run = 0, all = 0 }
    folders[name], order[#order + 1] = folder, name
  end
  local numbers, run = {}, 0
  for number, state in pairs(files[path]) do -- order free: counted, and sorted next
    folder.all = folder.all + 1
    run = run + (state == "run" and 1 or 0)
    if state ~= "run" then numbers[#numbers + 1] = number end
  end
  folder.run = folder.run + run
  table.sort(numbers)
  if missing and #numbers > 0 then print(path .. ": " .. table.concat(numbers, " ")) end
end

for _, name in ipairs(order) do
  local folder = folders[name]
  print(("%-24s %5d of %5d lines run %6.1f %%"):format(name, folder.run, folder.all, 100 * folder.run / folder.all))
end
local poor = 0
for _, name in ipairs(NEEDED) do
  local folder = folders[name] or { run = 0, all = 1 }
  if 100 * folder.run < LEAST * folder.all then
    print(("%s: less than %d %%"):format(name, LEAST))
    poor = poor + 1
  end
end
os.exit(poor == 0)
