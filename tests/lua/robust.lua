-- tests/lua/robust.lua: the list of odd, valid and damaged files in ../shared/data/robust, where it is there.

local rounds = require "tests.lua.rounds"

local robust = {}

local DIR = "../shared/data/robust/"

--- The entries of one format, {file, path, expected, reading, sha256}; nil without the folder.
--- reading: what an independent reader said; sha256: of a picture's RGB bytes, or "".
function robust.list(format)
  local f <close> = io.open(DIR .. "EXPECTED.tsv")
  if not f then return nil end
  local list = {}
  for line in f:lines() do
    local file, kind, _, expected, _, _, reading, sha256 = line:match(("([^\t]*)\t?"):rep(8))
    if kind == format then
      list[#list + 1] = { file = file, path = DIR .. file, expected = expected, reading = reading, sha256 = sha256 }
    end
  end
  return list
end

--- Read all files of a format and hold what happens against the list: "accept" must be read, "reject" must be refused
--- with a message that names the file, "either" is one of both. Calls check(entry, data) with what was read and prints
--- the counts. Returns the number of files, or nil and a reason.
function robust.decide(format, read, check)
  local list = robust.list(format)
  if not list then return nil, "needs ../shared/data/robust" end
  local counts = { accept = 0, reject = 0, either = 0 }
  for _, entry in ipairs(list) do
    local data, message = read(entry.path)
    local outcome = data and "accept" or "reject"
    if entry.expected ~= "either" and outcome ~= entry.expected then
      error(("%s: %s, expected %s"):format(entry.file, message or "was read", entry.expected))
    end
    if not data and not message:find(entry.file, 1, true) then
      error(("%s: its name is not in the message: %s"):format(entry.file, message))
    end
    counts[entry.expected] = counts[entry.expected] + 1
    if data and check then check(entry, data) end
  end
  rounds.count("%s: %d read and %d refused as expected, %d either way", format, counts.accept, counts.reject,
    counts.either)
  return #list
end

return robust
