-- scripts/size_report.lua: lines per folder and the ten longest functions, for `make size`. Seen, not enforced.
-- A function is what lies between a line that opens one in column 1 and the `}` or `end` that closes it there.

local function opens(line, is_lua)
  if is_lua then return line:match "^local function ([%w_]+)" or line:match "^function ([%w_.:]+)" end
  return line:find "^%a.*%)%s*{$" and not line:find ";" and line:match "([%w_]+)%s*%("
end

local function closes(line, is_lua) return line:find(is_lua and "^end" or "^}") ~= nil end

-- Count the lines of one file and add its functions to the list.
local function measure(path, functions)
  local is_lua = path:find "%.lua$" ~= nil
  local count, name, first = 0, nil, nil
  local head = "" -- a C signature may run over several lines
  for line in io.lines(path) do
    count = count + 1
    head = (line:find "^%a" or is_lua) and line or line:find "^%s+%S" and #head > 0 and head .. line or ""
    if not name then
      name, first = opens(head, is_lua) or nil, count
    elseif closes(line, is_lua) then
      functions[#functions + 1] = { name = name, lines = count - first + 1, place = path .. ":" .. first }
      name = nil
    end
  end
  return count
end

local folders, order, functions = {}, {}, {}
local command = "git ls-files | grep -E '[.](c|h|def|lua|sh)$|^Makefile|^.ci'"
for path in io.popen(command):lines() do
  local folder = path:match "^(.*)/" or "."
  if not folders[folder] then
    folders[folder] = { files = 0, lines = 0 }
    order[#order + 1] = folder
  end
  folders[folder].files = folders[folder].files + 1
  folders[folder].lines = folders[folder].lines + measure(path, functions)
end

local files, lines = 0, 0
print(("%7s %6s  folder"):format("lines", "files"))
for _, folder in ipairs(order) do
  local f = folders[folder]
  print(("%7d %6d  %s"):format(f.lines, f.files, folder))
  files, lines = files + f.files, lines + f.lines
end
print(("%7d %6d  all"):format(lines, files))

table.sort(functions, function(a, b)
  if a.lines ~= b.lines then return a.lines > b.lines end
  return a.place < b.place
end)
print "\n  lines  longest functions"
for i = 1, math.min(10, #functions) do
  local f = functions[i]
  print(("%7d  %-32s %s"):format(f.lines, f.name, f.place))
end
