-- tests/lua/sandbox.lua: a fresh folder for each test of a spec, and shell commands that run there: $H is hdlua.
-- Opened before each test, closed after it.

local sandbox = {}

local hdlua = os.getenv "HDLUA" or "build/hdlua"
if hdlua:sub(1, 1) ~= "/" then hdlua = io.popen("pwd"):read "l" .. "/" .. hdlua end
local folder

function sandbox.path(name) return folder .. "/" .. name end

--- The content of a file, nil where there is none.
function sandbox.read(name)
  local f <close> = io.open(sandbox.path(name), "rb")
  return f and f:read "a"
end

--- Gives the path.
function sandbox.write(name, text)
  local f <close> = assert(io.open(sandbox.path(name), "wb"))
  f:write(text)
  return sandbox.path(name)
end

--- Run a shell command in the folder; gives what it printed and its exit code.
function sandbox.shell(command)
  local _, _, code = os.execute(("cd %s && export H=%s && { %s\n} >out.txt 2>&1"):format(folder, hdlua, command))
  return sandbox.read "out.txt", code
end

--- Make a folder with these files.
---@param files table<string, string>
function sandbox.open(files)
  folder = io.popen("mktemp -d"):read "l"
  for name, text in next, files do sandbox.write(name, text) end -- order free: separate files
end

function sandbox.close() os.execute("rm -rf " .. folder) end

return sandbox
