-- hd/tool/bench/process.lua: other processes. A workload runs in one of its own, so that its peak of memory is its own;
-- it prints a line `RESULT {record}` for each result. The peer speaks the same language.
-- Called by: bench.lua, startup.lua, verify.lua.

local core = require "hd.core"

local process = {}

--- A word as the shell reads it.
---@param text string
---@return string
function process.quoted(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

--- The program that runs this, as it was called (the first word of the command line), ready for the shell.
---@return string
function process.hdlua()
  local first = 0
  while arg[first - 1] do first = first - 1 end
  return process.quoted(arg[first])
end

--- Run a command; the records that it printed, or nil and all else that it said.
---@param command string  of the shell
---@return table[]?  none where it is not made to tell any
---@return string? message
function process.run(command)
  local pipe = assert(io.popen(command .. " 2>&1"))
  local list, said = {}, {}
  for line in pipe:lines() do
    local text = line:match "^RESULT (.*)$"
    if text then list[#list + 1] = core.json_decode(text) else said[#said + 1] = line end
  end
  if pipe:close() then return list end
  return nil, said[1] and table.concat(said, "\n") or "it ended without a word"
end

--- The same for a command that must tell at least one record.
function process.records(command)
  local list, message = process.run(command)
  if list and #list == 0 then return nil, "it ended without a result" end
  return list, message
end

--- Print a record for the process that waits for it.
---@param record table
function process.report(record) print("RESULT " .. core.json_encode(record)) end

--- The first thing that a shell command prints, or nil.
---@param command string
---@return string?
function process.line(command)
  local pipe <close> = assert(io.popen(command))
  return pipe:read "l"
end

return process
