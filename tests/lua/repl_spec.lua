-- The prompt on a terminal: `script` (util-linux) lends one. Keys go in through a named pipe, one line at a time; the
-- next is sent when the answer to the last has been seen. Run by tests/run.sh, which sets HDLUA.

local hdlua = os.getenv "HDLUA" or "build/hdlua"
local PATIENCE = 200 -- looks at the screen before giving up, 0.05 s apart

local Session = {}
Session.__index = Session

local function start(options)
  local folder = io.popen("mktemp -d"):read "l"
  os.execute(("mkfifo %s/keys; env -u LUA_INIT XDG_STATE_HOME=%s/state TERM=xterm script -qfec '%s %s' /dev/null " ..
    "<%s/keys >%s/screen 2>&1 &"):format(folder, folder, hdlua, options or "", folder, folder))
  local session = setmetatable({ folder = folder, seen = 1 }, Session)
  session.keys = assert(io.open(folder .. "/keys", "w"))
  session.keys:setvbuf "no"
  session:expect "\n> $"
  return session
end

function Session:screen()
  local file = io.open(self.folder .. "/screen", "rb")
  local text = file and file:read "a" or ""
  if file then file:close() end
  return (text:gsub("\r", ""))
end

-- Waits until the pattern shows behind what has been seen; gives the text up to its end.
function Session:expect(pattern)
  for _ = 1, PATIENCE do
    local text = self:screen()
    local first, last = text:find(pattern, self.seen)
    if first then
      local part = text:sub(self.seen, last)
      self.seen = last + 1
      return part
    end
    os.execute "sleep 0.05"
  end
  error(("not on the screen: '%s' in '%s'"):format(pattern, self:screen():sub(self.seen)), 2)
end

-- Types a line; gives what it printed.
function Session:run(line)
  self.keys:write(line, "\n")
  local text = self:expect "\n>>? $"
  return (text:gsub("^[^\n]*\n", "", 1):gsub(">>? $", "", 1):gsub("\n$", "", 1))
end

function Session:close()
  self.keys:write "\4"
  self.keys:close()
  os.execute("sleep 0.1; rm -rf " .. self.folder)
end

describe("the prompt", function()
  local session
  before_each(function() session = start() end)
  after_each(function() session:close() end)

  it("prints results without return and keeps the last one as _", function()
    assert.are.equal("3", session:run "1 + 2")
    assert.are.equal("30", session:run "_ * 10")
    assert.are.equal("1\tx\tnil", session:run "1, 'x', nil")
    assert.are.equal("", session:run "local unseen = 1")
    assert.are.equal("5", session:run "= 5")
  end)

  it("reads a chunk that spans lines", function()
    assert.are.equal("", session:run "function twice(x)")
    assert.are.equal("", session:run "return 2 * x")
    assert.are.equal("", session:run "end")
    assert.are.equal("14", session:run "twice(7)")
    assert.are.equal("", session:run "twice(")
    assert.are.equal("16", session:run "8)")
  end)

  it("goes on after errors", function()
    assert.truthy(session:run "error 'broken'":find("stdin:1: broken\nstack traceback:", 1, true))
    assert.truthy(session:run "x x":find("syntax error near 'x'", 1, true))
    assert.are.equal("2", session:run "1 + 1")
  end)

  it("prints a table one level deep, sorted", function()
    assert.are.equal('{ 1, 2, { 3 }, b = "text", c = {}, ["d e"] = true }',
      (session:run "{ 1, 2, { 3 }, c = {}, b = 'text', ['d e'] = true }":gsub("{%.%.%.}", "{ 3 }")))
    local long = session:run "local t = {} for i = 1, 1000 do t[i] = i end return t"
    assert.truthy(long:find("... (1000 in all)", 1, true))
    assert.are.equal("own text", session:run "setmetatable({}, { __tostring = function() return 'own text' end })")
  end)

  it("knows hd, help, who, time and show", function()
    assert.are.equal("table", session:run "type(hd)")
    assert.truthy(session:run "help()":find("help(x)", 1, true))
    session:run "answer = 42"
    assert.truthy(session:run "who()":find "^answer +42$")
    assert.truthy(session:run "time(function(a) return a + 1 end, 4)":find "^%d+%.%d%d%d ms\n5$")
    assert.are.equal("{\n  a = {\n    b = 1\n  }\n}", session:run "show { a = { b = 1 } }")
    assert.truthy(session:run 'help "hd.nn.Conv2d"':find "Conv2d%(")
    assert.truthy(session:run "help(hd.nn.Conv2d)":find "Conv2d%(")
    assert.truthy(session:run 'help "hd.nn.Conv2"':find("did you mean", 1, true))
    assert.truthy(session:run 'help "H:sample"':find("Hierarchy:sample(", 1, true))
  end)

  it("prints a tensor under a line of its type, shape and range", function()
    local text = session:run "hd.tensor { { 1, 2, 3 }, { 4, 5, 9 } }"
    assert.are.equal("f32 [2,3] min 1 mean 4 max 9", text:match "^[^\n]+")
    assert.truthy(text:find "9[^\n]*$")
    text = session:run "hd.tensor({ 1, 2 }, { dtype = 'i64' })"
    assert.are.equal("i64 [2] min 1 mean 1.5 max 2", text:match "^[^\n]+")
    assert.are.equal("f32 [0]", session:run "hd.zeros(0)":match "^[^\n]+")
  end)

  it("shows a picture as coloured half blocks, scaled to the line", function()
    local text = session:run "show(hd.ones(3, 2, 3))"
    local white = "\27[38;2;255;255;255m\27[48;2;255;255;255m▀"
    assert.are.equal(white:rep(3) .. "\27[0m", text)
    local _, blocks = session:run("show(hd.zeros(1, 16, 160))"):gsub("▀", "")
    assert.are.equal(54 * 3, blocks) -- every third column and row
    assert.truthy(session:run "show(hd.zeros(2, 3, 4, 4))":find "▀")
  end)

  it("completes globals, fields, methods and modules", function()
    assert.are.equal("ABC", session:run "string.uppe\t('abc')")
    session:run "text = 'abc'"
    assert.are.equal("cba", session:run "text:rever\t()")
    session:run "object = setmetatable({}, { __index = { inherited = 'yes' } })"
    assert.are.equal("yes", session:run "object.inhe\t")
    session:run "x = hd.zeros(2, 3)"
    assert.are.equal("6", session:run "x:nume\t()")
    assert.are.equal("table", session:run "type(hd.nn.Conv2\t)")
    assert.are.equal("function", session:run "type(hd.imag\t.grid)") -- a module that is not loaded yet
    assert.are.equal("true", session:run "rawequa\t(1, 1)")
  end)

  it("shows all candidates at a second Tab", function()
    session.keys:write "string.re\t\t"
    local list = session:expect "string%.reverse"
    assert.truthy(list:find("string.rep", 1, true))
    session.keys:write "\3"
    session:expect "\n> $"
  end)

  it("edits the line and recalls the one before", function()
    assert.are.equal("12", session:run "2\0011") -- Ctrl-A: to the start
    assert.are.equal("12", session:run "\16") -- Ctrl-P: the line before
    assert.are.equal("äü", session:run "'ä€\127ü'") -- the Delete key takes a whole character
  end)

  it("clears the line at Ctrl-C, also within a chunk", function()
    session.keys:write "abc def"
    session:expect "def"
    session.keys:write "\3"
    session:expect "%^C\n> $"
    assert.are.equal("", session:run "function half(")
    session.keys:write "\3"
    session:expect "%^C\n> $"
    assert.are.equal("4", session:run "2 + 2")
  end)

  it("stops what runs at Ctrl-C and keeps the session", function()
    session:run "kept = 'still here'"
    session.keys:write "io.write 'running' io.flush() while true do end\n"
    session:expect "\nrunning"
    session.keys:write "\3"
    assert.truthy(session:expect "\n> $":find("interrupted!", 1, true))
    assert.are.equal("still here", session:run "kept")
  end)

  it("lets a loop that asks for it see Ctrl-C, and listens again afterwards", function()
    for _ = 1, 2 do
      session.keys:write "io.write 'running' io.flush() while not hd.interrupted() do end return 'seen'\n"
      session:expect "\nrunning"
      session.keys:write "\3"
      assert.truthy(session:expect "\n> $":find("seen", 1, true))
    end
  end)

  it("keeps its history in a file for its owner alone", function()
    session:run "remembered = 1"
    local path = session.folder .. "/state/hdlua/history"
    assert.truthy(io.open(path):read "a":find("remembered", 1, true))
    assert.are.equal("600 700\n", io.popen(("stat -c %%a %s | tr '\\n' ' '; stat -c %%a %s/state/hdlua"):format(path,
      session.folder)):read "a")
  end)
end)

describe("-i", function()
  it("runs the script first, without the prompt's globals, and keeps its own", function()
    local path = os.tmpname()
    local file = io.open(path, "w")
    file:write "before = tostring(hd) .. tostring(help) .. tostring(_) who = 'mine'"
    file:close()
    local session = start("-i " .. path)
    assert.are.equal("nilnilnil", session:run "before")
    assert.are.equal("mine", session:run "who")
    assert.are.equal("table", session:run "type(hd)")
    session:close()
    os.remove(path)
  end)
end)
