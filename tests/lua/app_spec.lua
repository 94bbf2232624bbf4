-- The program around the language: options, exit codes, sameness with lua5.4, C modules, signals, --strict.
-- The prompt has a spec of its own, repl_spec.lua. Run by tests/run.sh, which sets HDLUA.

local hdlua = os.getenv "HDLUA" or "build/hdlua"
local folder -- a fresh one for each test

local function write(name, text)
  local path = folder .. "/" .. name
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
  return path
end

local function read(name)
  local file = assert(io.open(folder .. "/" .. name, "rb"))
  local text = file:read "a"
  file:close()
  return text
end

local function quote(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

-- Runs a shell command in the folder; $H is hdlua. Gives stdout, stderr, exit code.
local function shell(command, program)
  local _, _, code = os.execute(("cd %s && H=%s && { %s\n} >out 2>err"):format(folder, program or hdlua, command))
  return read "out", read "err", code
end

-- Runs hdlua with these words.
local function run(...)
  local words = { "$H" }
  for i, word in ipairs { ... } do words[i + 1] = quote(word) end
  return shell(table.concat(words, " ") .. " </dev/null")
end

setup(function()
  if hdlua:sub(1, 1) ~= "/" then hdlua = io.popen("pwd"):read "l" .. "/" .. hdlua end
end)
before_each(function() folder = io.popen("mktemp -d"):read "l" end)
after_each(function() os.execute("rm -rf " .. folder) end)

describe("a script", function()
  it("gets its arguments and the arg table", function()
    write("s.lua", "print(arg[0], arg[1], arg[2], #arg, arg[-1], ...)")
    assert.are.equal("s.lua\ta\t-e\t2\t-W\ta\t-e\n", (run("-W", "s.lua", "a", "-e")))
  end)

  it("ends with 0, or with 1 and a traceback when it fails", function()
    write("good.lua", "x = 1")
    write("bad.lua", "local function f() error 'broken' end\nf()")
    local _, err, code = run "good.lua"
    assert.are.equal("", err)
    assert.are.equal(0, code)
    _, err, code = run "bad.lua"
    assert.are.equal(1, code)
    assert.truthy(err:find("bad.lua:1: broken\nstack traceback:", 1, true))
  end)

  it("may end with any code of its own", function()
    assert.are.equal(7, select(3, run("-e", "os.exit(7)")))
    assert.are.equal(130, select(3, run("-e", "os.exit(130, true)")))
  end)

  it("may come from stdin", function()
    assert.are.equal("4\n", (shell "echo 'print(2 + 2)' | $H"))
    assert.are.equal("-\tx\n", (shell "echo 'print(arg[0], ...)' | $H - x"))
  end)

  it("loads nothing of the library, nor SDL2, nor libsndfile", function()
    local program = [[
      local maps = io.open("/proc/self/maps"):read "a"
      print(maps:find "SDL2" or "no", maps:find "sndfile" or "no", package.loaded["hd.core"] or "no")]]
    assert.are.equal("no\tno\tno\n", (run("-e", program)))
    local with_library = program:gsub("^", "require 'hd' "):gsub(", package.+$", ")")
    assert.are.equal("no\tno\n", (run("-e", with_library)))
  end)

  it("sees no global that lua5.4 does not have", function()
    local program = "local t = {} for k in pairs(_G) do t[#t + 1] = k end table.sort(t) print(table.concat(t, ' '))"
    assert.are.equal(shell("$H -e " .. quote(program), "lua5.4"), (run("-e", program)))
  end)
end)

describe("lua5.4 and hdlua say the same", function()
  -- Each is run in a folder with the files below, once with $H as lua5.4.
  local commands = {
    "$H -v",
    "$H -e 'print(1)' -e 'print(2)'",
    "$H -e'print(1)'",
    "$H -v -e 'print(_VERSION)'",
    "$H args.lua a b c",
    "$H -W -E args.lua a",
    "$H -e 'x = 1' args.lua",
    "$H -- args.lua -x",
    "$H -i args.lua q </dev/null",
    "$H - a b <args.lua",
    "$H <args.lua",
    "$H -- - 2>&1",
    "$H missing.lua",
    "$H -l mod -e 'print(mod.name)'",
    "$H -lm=mod -e 'print(m.name, mod)'",
    "$H -l not.there",
    "$H -e 'require \"hdnot\"'",
    "$H -W -e 'warn(\"a\", \"b\")'",
    "$H -e 'warn(\"@on\") warn(\"late\")'",
    "$H -e 'error(\"text\", 0)'",
    "$H -e 'error()'",
    "$H -e 'error({})'",
    "$H -e 'error(setmetatable({}, { __tostring = function() return \"own\" end }))'",
    "$H -e 'local x <close> = setmetatable({}, { __close = function() print(1) end }) error(\"in scope\")'",
    "$H -e 'x x'",
    "$H -e 'arg = 3' args.lua",
    "$H -e 'coroutine.wrap(function() error(\"inside\") end)()'",
    "$H -e 'print(package.path, package.cpath, #package.searchers > 3)'",
    "$H -e 'print(collectgarbage(\"incremental\"))'",
    "$H -e 'setmetatable({}, { __gc = function() print(\"collected\") end })'",
    "$H syntax.lua",
    "$H deep.lua",
    "LUA_INIT='print(\"init\", arg[0] ~= nil)' $H -e 'print(2)'",
    "LUA_INIT=@init.lua $H -e 'print(2)'",
    "LUA_INIT=@none.lua $H -e 'print(2)'",
    "LUA_INIT_5_4='print(54)' LUA_INIT='print(0)' $H -e 'print(2)'",
    "LUA_INIT='print(1)' $H -E -e 'print(2)'",
    "LUA_INIT='error(\"early\")' $H -e 'print(2)'",
    "LUA_PATH='/nowhere/?.lua' $H -e 'print(package.path)'",
    "LUA_PATH='/nowhere/?.lua;;' $H -E -e 'print(package.path)'",
    "printf '1 + 1\\n=2, 3\\nx =\\n4\\nx\\n' | $H -i",
    "printf 'error \"a\"\\nfor i = 1, 2 do\\nprint(i) end\\n' | $H -i",
    "printf 'x x\\nlocal y = 1\\ny\\nnil\\n' | $H -i",
    "printf 'print = nil\\n1\\n' | $H -i",
    "printf '_PROMPT = \"a> \"\\n_PROMPT2 = \"b> \"\\nx =\\n1\\nx' | $H -i",
    "printf '#!/usr/bin/lua\\nprint(1)' >bang.lua && $H bang.lua",
    "$H algorithms.lua",
  }

  local function answers(command, program)
    write("args.lua", "print(arg[0], arg[-1] ~= nil, #arg, ...)")
    write("init.lua", "print 'from init'")
    write("mod.lua", "return { name = ... }")
    write("syntax.lua", "local x =\n= 3")
    write("deep.lua", "local function f(n) return n == 0 and error('deep') or 1 + f(n - 1) end\nf(50)")
    write("algorithms.lua", [[
      local function sieve(n)
        local out, composite = {}, {}
        for i = 2, n do
          if not composite[i] then
            out[#out + 1] = i
            for j = i * i, n, i do composite[j] = true end
          end
        end
        return out
      end
      print(table.concat(sieve(100), " "))
      print(("%5.2f|%-5s|%q|%x"):format(math.pi, "ab", "a\nb", 255), 7 // 2, 7 % -3, 2 ^ 10, 10 / 2, 1e15, 2^53)
      print(string.pack("<i4", 100):byte(1, -1), utf8.char(228, 8364), #"\u{7FFFFFFF}")
      print(pcall(error, { code = 2 }), select("#", table.unpack({}, 1, 3)), math.type(3.0), 3 | 4, ~0)
      goto done
      print "never"
      ::done::
      local t = setmetatable({}, { __index = function(_, k) return k * 2 end, __call = function(_, a) return a end })
      print(t[21], t(5), rawlen { 1, 2, 3 }, next {}, tostring(nil), tonumber("0x1p4"), "10" + 5)
      local co = coroutine.wrap(function(a) local b = coroutine.yield(a + 1) return b * 2 end)
      print(co(1), co(10), string.rep("ab", 3, ","), ("x"):rep(0), os.time { year = 2020, month = 1, day = 1 })
      for k, v in string.gmatch("a=1, b=2", "(%w+)=(%w+)") do io.write(k, v, ";") end
      io.write("\n")]])
    local out, err, code = shell(command, program)
    local name = program:gsub("%p", "%%%0")
    return { (out:gsub(name, "LUA")), (err:gsub(name, "LUA")), code }
  end

  for _, command in ipairs(commands) do
    it(command, function() assert.are.same(answers(command, "lua5.4"), answers(command, hdlua)) end)
  end
end)

describe("an option of hdlua", function()
  it("reaches the library", function()
    local out = run("--threads", "3", "--seed=-7", "--memory", "2G", "--view", "off", "--strict", "-e", [[
      local o = require("hd.core").options
      print(o.threads, o.seed, o.memory, o.view, o.strict)]])
    assert.are.equal("3\t-7\t2147483648\toff\ttrue\n", out)
    assert.are.equal("2\n", (run("--threads", "2", "-e", "print(require('hd.core').threads())")))
  end)

  it("sees the whole environment, whatever OpenMP is told there", function()
    for _, setting in ipairs { "C=3", "OMP_WAIT_POLICY=passive", "GOMP_SPINCOUNT=5" } do
      local command = [[env -i A=1 %s B=2 $H -e 'print(os.getenv "A", os.getenv "B", os.getenv "%s")']]
      local name, value = setting:match "(.*)=(.*)"
      assert.are.equal(("1\t2\t%s\n"):format(value), (shell(command:format(setting, name))))
    end
  end)

  it("--version names everything that figures depend on", function()
    local out, _, code = run("--threads", "2", "--version")
    assert.are.equal(0, code)
    assert.truthy(out:find "^hdlua %d+%.%d+%.%d+\nLua 5%.4")
    assert.truthy(out:find "\nOpenBLAS %d+%.%d+%S*, core %a+\n")
    assert.truthy(out:find "\ninstruction set %w+\n")
    assert.truthy(out:find "\nthreads 2\n")
    assert.truthy(out:find "\nSDL %S+")
  end)

  it("--help lists every option", function()
    local out, _, code = run "--help"
    assert.are.equal(0, code)
    for _, word in ipairs {
      "-e", "-i", "-l", "-v", "-E", "-W", "-m", "--threads", "--memory", "--seed", "--view", "--strict", "--doc",
      "--anomaly", "--version", "--help",
    } do
      assert.truthy(out:find("\n  " .. word, 1, true), word)
    end
  end)

  it("--doc prints a name's documentation, or names like it", function()
    local out, err, code = run("--doc", "hd.nn.Conv2d")
    assert.are.equal("", err)
    assert.are.equal(0, code)
    assert.truthy(out:find "Conv2d%(")
    out, err, code = run("--doc", "hd.nn.Conv2")
    assert.are.equal("", out)
    assert.are.equal(1, code)
    assert.truthy(err:find("got 'hd.nn.Conv2'", 1, true))
    assert.truthy(err:find("Conv2d", 1, true))
  end)

  local wrong = {
    { { "--thread", "2" }, "unrecognized option '--thread'. did you mean '--threads'?" },
    { { "--sede", "2" }, "did you mean '--seed'?" },
    { { "-threads", "2" }, "did you mean '--threads'?" },
    { { "--e", "x = 1" }, "did you mean '-e'?" },
    { { "-q" }, "unrecognized option '-q'" },
    { { "-vv" }, "unrecognized option '-vv'" },
    { { "-e" }, "'-e' needs argument" },
    { { "-e", "-v" }, "'-e' needs argument" },
    { { "-m" }, "'-m' needs argument" },
    { { "--seed" }, "'--seed' needs argument" },
    { { "--strict=1" }, "unrecognized option '--strict=1'" },
    { { "--threads", "0" }, "--threads: bad value: got '0', expected a whole number from 1 to 256" },
    { { "--threads", "two" }, "got 'two'" },
    { { "--threads", "2x" }, "got '2x'" },
    { { "--memory", "10Q" }, "got '10Q', expected a size" },
    { { "--memory", "-1G" }, "got '-1G', expected a size" },
    { { "--seed", "99999999999999999999" }, "expected a whole number" },
    { { "--view", "windw" }, "expected auto, window, png, term or off" },
    { { "-m", "no_such_tool" }, "no such tool: got 'no_such_tool'" },
    { { "-m", "../../x" }, "no such tool: got '../../x'" },
  }
  for _, case in ipairs(wrong) do
    it("is refused with code 2: " .. table.concat(case[1], " "), function()
      local out, err, code = run(table.unpack(case[1]))
      assert.are.equal("", out)
      assert.are.equal(2, code)
      assert.truthy(err:find(case[2], 1, true), err)
    end)
  end

  it("after the script belongs to the script", function()
    write("s.lua", "print(...)")
    assert.are.equal("--threads\tx\t--nonsense\n", (run("s.lua", "--threads", "x", "--nonsense")))
  end)
end)

describe("the library", function()
  it("is found from an installed program, with its tools", function()
    shell [[mkdir -p bin share/hdlua/hd/tool
      cp $H bin/hdlua
      echo 'return "installed"' >share/hdlua/hd.lua
      echo 'print(arg[0]:match "[^/]+$", arg[-1], ...)' >share/hdlua/hd/tool/echo.lua
      ln -s bin/hdlua link]]
    assert.are.equal("installed\n", (shell "bin/hdlua -e 'print((require \"hd\"))'"))
    assert.are.equal("installed\n", (shell "./link -e 'print((require \"hd\"))'"))
    assert.are.equal("echo.lua\t-m\ta\t--b\n", (shell "bin/hdlua -W -m echo a --b"))
    local _, err, code = shell "bin/hdlua -m ecko"
    assert.are.equal(2, code)
    assert.truthy(err:find("did you mean 'echo'?", 1, true))
  end)

  it("gives way to one in LUA_PATH", function()
    write("hd.lua", "return 'mine'")
    assert.are.equal("mine\n", (shell("LUA_PATH='./?.lua;;' $H -e 'print((require \"hd\"))'")))
    assert.are.equal("table\n", (shell("$H -e 'print(type(require \"hd\"))'")))
  end)
end)

describe("a C module for Lua 5.4 works:", function()
  local modules = {
    cjson = [[local j = require "cjson" local t = j.decode(j.encode { a = { 1, 2, 3 }, b = "x" }) print(#t.a, t.b)]],
    lpeg = [[local l = require "lpeg" local n = l.C(l.R "09" ^ 1) print((n * "," * n):match "12,34")]],
    lfs = [[local l = require "lfs" print(l.attributes(".", "mode"), l.mkdir "sub", l.attributes("sub", "mode"))]],
    socket = [[
      local s = require "socket"
      local server = assert(s.bind("127.0.0.1", 0))
      local address, port = server:getsockname()
      local client = assert(s.connect(address, port))
      local peer = server:accept()
      client:send "ping\n"
      print((peer:receive()))]],
    penlight = [[print(require("pl.List") { 3, 1, 2 }:sort(), require("pl.stringx").split("a b c")[2])]],
  }
  local answers = {
    cjson = "3\tx\n", lpeg = "12\t34\n", lfs = "directory\ttrue\tdirectory\n", socket = "ping\n",
    penlight = "{1,2,3}\tb\n",
  }
  for _, name in ipairs { "cjson", "lpeg", "lfs", "socket", "penlight" } do
    it(name, function()
      write("s.lua", modules[name])
      local out, err, code = run "s.lua"
      assert.are.same({ answers[name], "", 0 }, { out, err, code })
    end)
  end
end)

describe("--strict", function()
  local function message(program)
    write("s.lua", program)
    local _, err, code = run("--strict", "s.lua")
    return err, code
  end

  it("reports a read at the user's line and suggests the nearest global", function()
    local err, code = message "local x = 1\nprnt(x)"
    assert.are.equal(1, code)
    assert.truthy(err:find("s.lua:2: strict: undeclared global: got 'prnt'. did you mean 'print'?", 1, true))
  end)

  it("reports a write, in the main chunk and in functions", function()
    assert.truthy(message("\ncount = 1"):find("s.lua:2: strict: undeclared global is set: got 'count'", 1, true))
    assert.truthy(message("local function f()\ntotal = 1\nend\nf()"):find("s.lua:2:", 1, true))
  end)

  it("accepts what was declared with rawset", function()
    assert.are.same({ "", 0 }, { message "rawset(_G, 'x', 1)\nx = x + 1\nassert(x == 2)" })
  end)

  it("leaves installed modules alone", function()
    assert.are.same({ "", 0 }, { message "require 'pl.List' require 'cjson' require 'socket' require 'hd'" })
  end)

  it("is off by default", function() assert.are.equal("nil\n", (run("-e", "x = nil print(y)"))) end)
end)

describe("a signal", function()
  -- Starts a script in the background, waits for its first line, runs `then_what` with its id in $P, waits for its end.
  -- The shell starts background programs with SIGINT ignored; hdlua, as lua5.4, listens to it all the same.
  local function signalled(program, then_what, interpreter)
    write("s.lua", "io.stdout:setvbuf 'line' print 'ready' " .. program)
    return shell([[
      rm -f log
      $H s.lua >log 2>&1 & P=$!
      while ! grep -qs ready log; do sleep 0.02; done
      ]] .. then_what .. [[

      wait $P; code=$?
      cat log; exit $code]], interpreter)
  end

  -- What was printed, whichever the program; the signal may come before the print of "ready" has returned.
  local function plain(out)
    out = out:gsub(hdlua:gsub("%p", "%%%0"), "lua5.4")
    return (out:gsub("s.lua:1: interrupted!", "interrupted!"):gsub("\t%[C%]: in function 'print'\n", ""))
  end

  -- What hdlua and lua5.4 print, and their exit codes, must be the same; returns them.
  local function as_in_lua(program, then_what)
    local out, _, code = signalled(program, then_what)
    local expected, _, expected_code = signalled(program, then_what, "lua5.4")
    assert.are.equal(plain(expected), plain(out))
    assert.are.equal(expected_code, code)
    return out, code
  end

  it("SIGINT raises at the next instruction, as in lua5.4", function()
    local out, code = as_in_lua("while true do end", "kill -INT $P")
    assert.are.equal(1, code)
    assert.truthy(out:find("interrupted!\nstack traceback:", 1, true))
  end)

  local BUSY = "while ! grep -q busy log; do sleep 0.02; done; "

  it("SIGINT reaches a busy coroutine when it yields, as in lua5.4", function()
    local busy = [[
      local co = coroutine.wrap(function()
        print "busy"
        repeat local f = io.open "go" until f
        os.remove "go"
        coroutine.yield(print "yields")
      end)
      co() while true do end]]
    local out, code = as_in_lua(busy:gsub("%s*\n%s*", " "), BUSY .. "kill -INT $P; sleep 0.2; touch go")
    assert.are.equal(1, code)
    assert.truthy(out:find "^ready\nbusy\nyields\n.*interrupted!")
  end)

  it("SIGINT does not reach a coroutine that never yields, the second one does, as in lua5.4", function()
    local _, code = as_in_lua("coroutine.wrap(function() print 'busy' while true do end end)()",
      BUSY .. "for i in 1 2 3 4 5; do kill -INT $P; sleep 0.1; done")
    assert.are.equal(128 + 2, code)
  end)

  it("SIGINT can be caught like any error", function()
    local out, _, code = signalled("print(pcall(function() print 'busy' while true do end end))",
      BUSY .. "kill -INT $P")
    assert.are.equal(0, code)
    assert.truthy(out:find "false\t.*interrupted!")
  end)

  local polite = [[
    local core = require "hd.core"
    assert(core.interrupted() == false)
    print "claimed"
    while not core.interrupted() do end
    print "saved"
    os.exit(130, true)]]

  for _, name in ipairs { "INT", "TERM", "HUP" } do
    it("SIG" .. name .. " is only seen by a program that asks for it", function()
      local wait = "while ! grep -q claimed log; do sleep 0.02; done; "
      local out, _, code = signalled(polite, wait .. "kill -" .. name .. " $P")
      assert.are.equal("ready\nclaimed\nsaved\n", out)
      assert.are.equal(130, code)
    end)
  end

  it("SIGHUP stays ignored where it was so from the start (nohup)", function()
    write("s.lua", polite)
    local out, _, code = shell [[
      (trap "" HUP; exec $H s.lua) >log 2>&1 & P=$!
      while ! grep -q claimed log; do sleep 0.02; done
      kill -HUP $P; sleep 0.2; grep -q saved log || echo "goes on"; kill -TERM $P
      wait $P; code=$?
      cat log; exit $code]]
    assert.are.equal("goes on\nclaimed\nsaved\n", out)
    assert.are.equal(130, code)
  end)

  it("a second one ends the program at once", function()
    local stubborn = polite:gsub("while not core.interrupted%(%) do end", [[
      while not core.interrupted() do end
      print "seen"
      while true do end]])
    local out, _, code = signalled(stubborn, [[while ! grep -q claimed log; do sleep 0.02; done; kill -INT $P
      while ! grep -q seen log; do sleep 0.02; done; kill -TERM $P]])
    assert.are.equal("ready\nclaimed\nseen\n", out)
    assert.are.equal(128 + 15, code)
  end)

  it("SIGPIPE keeps its default", function()
    local out = shell "$H -e 'for i = 1, 1e6 do print(i) end print(io.stderr:write \"alive\")' | head -n 1"
    assert.are.equal("1\n", out)
    assert.are.equal("", read "err")
  end)
end)
