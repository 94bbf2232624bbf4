-- tests/fuzz/random_calls.lua: every bound function, and every public function of lib/hd, called with random values and
-- counts of them. A call may return or raise; what it must not do is in `faults` below. tests/lua/random_calls_spec.lua
-- runs it, each group in a process of its own.
--
-- In an empty folder, for calls write files:
--
--     hdlua --memory 256M --threads 1 TREE/tests/fuzz/random_calls.lua GROUP COUNT [SEED [PATTERN]]
--         COUNT calls of every function of core, op, method, object or library, or of those whose names match. The file
--         `last` names the call that runs, `report` receives a line for each function and each fault.
--     hdlua --memory 256M --threads 1 TREE/tests/fuzz/random_calls.lua replay NAME SEED
--         one call again, with its arguments and what came of it.
--
-- Half of the calls are wrong by chance alone; the others are a right call (tests/fuzz/valid_calls.lua) with one or two
-- values changed, so that they come past the first check.

local hd = require "hd"
local core = require "hd.core"
local docs = require "hd.doc_data"
local valid = dofile((arg[0]:gsub("random_calls", "valid_calls")))

local group, count, first_seed, pattern = arg[1], tonumber(arg[2]), tonumber(arg[3] or 1), arg[4]
local random = math.random

-- Random values ---------------------------------------------------------------------------------------------------

local function pick(list) return list[random(#list)] end

local INTEGERS = {
  0, -1, 1, 2, 3, 4, 5, 7, -2, 8, 9, 64, 255, 256, 1000, 2 ^ 31 | 0, -2 ^ 31 | 0, 2 ^ 32 | 0, 2 ^ 53 | 0,
  math.maxinteger, math.mininteger,
}
local FLOATS = { 0.0, 0.5, 1.0, 2.0, 3.0, -0.5, 1e-300, 1e300, 2 ^ 31, 2 ^ 63, -2 ^ 63, 1 / 0, -1 / 0, 0 / 0 }
local STRINGS = {
  "", "f32", "f64", "i64", "i32", "u8", "bool", "float32", "x", "dim", "cpu", "1", "0x10", "mean", "none", "silu",
  "nearest", "a.png", "a.npy", "a.safetensors", "missing/a.npz", "\0", "a\0b", "\xff\xfe", "%s%n%d",
  ("long "):rep(200), "{}", "[1,2]",
}
local DTYPES = { "f32", "f32", "f32", "f64", "i64", "i32", "u8", "bool" }
local SHAPES = {
  {}, { 0 }, { 1 }, { 3 }, { 2, 3 }, { 3, 2 }, { 3, 3 }, { 2, 3, 4 }, { 2, 0, 3 }, { 1, 3, 4, 4 }, { 2, 4, 6, 6 },
  { 2, 1, 3, 2, 2 }, { 1, 1, 1, 1, 1, 1, 1, 2 },
}
local OPTIONS = { "dtype", "rng", "dim", "size", "steps", "eps", "stride", "padding", "requires_grad", "x" }

local function planted() error("planted", 0) end

local value -- a random value; depth limits nesting

local function tensor()
  local dtype = pick(DTYPES)
  local x = core.full(pick(SHAPES), random(0, 3), { dtype = dtype })
  local how = random(12)
  if how == 1 and x:dim() > 1 then x = x:transpose(1, 2) end
  if how == 2 and x:dim() > 0 and x:size(-1) > 1 then x = x:narrow(-1, 2, 1) end
  if how == 3 and x:dim() == 4 then x = x:channels_last() end
  if how == 4 then x:release() end
  if how >= 11 and dtype:find "^f" then x:requires_grad_() end
  if how == 12 and dtype:find "^f" then x = x * 2 end
  return x
end

local TABLES = {
  function() return {} end,
  function(depth) return { value(depth), value(depth) } end,
  function(depth) return { [pick(OPTIONS)] = value(depth) } end,
  function(depth) return { [pick(OPTIONS)] = value(depth), [pick(OPTIONS)] = value(depth), [0.5] = true } end,
  function() return { random(0, 3), random(0, 3), random(0, 3) } end,
  function() return { tensor(), tensor() } end,
  function() return { 1, 2, nil, 4, [100] = 5, [2 ^ 53 | 0] = 1 } end,
  function() return table.move({}, 1, 0, 1, { n = 2 ^ 53 | 0 }) end,
  function() local t = {} t[1], t.x = t, t return t end,
  function() return setmetatable({}, { __index = planted, __len = planted, __call = planted }) end,
  function() return setmetatable({}, { __tostring = planted, __pairs = planted }) end,
  function() return setmetatable({ 1, 2 }, { __len = function() return 2 ^ 40 | 0 end }) end,
  function() return setmetatable({}, { __metatable = "locked", __name = 3 }) end,
  function() return setmetatable({ tensor() }, { __gc = planted, __close = planted, __mode = "kv" }) end,
}

local FUNCTIONS = {
  function() return planted end,
  function() return function() error() end end,
  function() return function() error { "planted" } end end,
  function() return function(...) return ... end end,
  function() return function() collectgarbage() end end,
  function() return function() return coroutine.yield() end end,
  function(depth) local v = value(depth) return function() return v end end,
  function() return os.clock end,
}

local OTHERS = {
  function() return coroutine.create(planted) end,
  function() return io.stderr end,
  function() return hd.rng(random(9)) end,
  function() return hd.scope() end,
  function() return math.pi end,
}

function value(depth)
  local kind = random(20)
  if kind <= 5 then return tensor() end
  if kind <= 7 then return random(0, 5) end
  if kind <= 9 then return pick(INTEGERS) end
  if kind == 10 then return pick(FLOATS) end
  if kind <= 12 then return pick(STRINGS) end
  if kind == 13 then return random(2) == 1 end
  if kind <= 16 then return depth < 3 and pick(TABLES)(depth + 1) or {} end
  if kind == 17 then return pick(FUNCTIONS)(depth + 1) end
  if kind == 18 then return pick(OTHERS)() end
  return nil
end

local COUNTS = { 0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5, 7, 30, 250 }

local function random_arguments()
  local args = { n = pick(COUNTS) }
  for i = 1, args.n do args[i] = value(0) end
  return args
end

-- Change one place of a list of arguments, at times inside a table of it.
local function change(holder, n)
  local i = random(n)
  local old = holder[i]
  if type(old) ~= "table" or getmetatable(old) or random(3) == 1 then
    holder[i] = value(0)
    return
  end
  local keys, copy = {}, {}
  for key, v in pairs(old) do keys[#keys + 1], copy[key] = key, v end
  table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
  holder[i] = copy
  if #keys == 0 then
    copy[pick(OPTIONS)] = value(0)
    return
  end
  local key = pick(keys)
  local inner = { copy[key] }
  change(inner, 1)
  copy[key] = inner[1]
end

local function arguments(right)
  if not right or random(2) == 1 then return random_arguments() end
  local args = right()
  args.n = args.n or #args
  for _ = 1, random(2) do
    if args.n > 0 then change(args, args.n) end
  end
  if random(8) == 1 then args.n = math.max(0, args.n + random(-2, 2)) end
  return args
end

-- Calling ---------------------------------------------------------------------------------------------------------

-- The user's chunk: its second line is where every error must be.
local perform = load("local f, args = ...\n"
  .. "local results = table.pack(f(table.unpack(args, 1, args.n)))\nreturn results", "@user.lua")

local called -- CPU time at which the call began
local LIMIT = 10 -- seconds of the processor, also for builds under sanitizers; most calls take a thousandth
local function watch()
  if called and os.clock() - called > LIMIT then
    called = nil
    error("HANG: longer than " .. LIMIT .. " s", 0)
  end
end

local function call(f, args, in_coroutine)
  called = os.clock()
  local ok, result
  if in_coroutine then
    local co = coroutine.create(perform)
    debug.sethook(co, watch, "", 1000000)
    ok, result = coroutine.resume(co, f, args)
    if coroutine.status(co) == "suspended" then coroutine.close(co) end
  else
    ok, result = pcall(perform, f, args)
  end
  local seconds = called and os.clock() - called or LIMIT
  called = nil
  return ok, result, seconds
end

-- What one call may change for the next.
local function restore()
  hd.backend "cpu"
  hd.threads(1)
  hd.seed(0)
end

-- What is wrong with an outcome; nil where nothing is.
local function faults(ok, message, seconds)
  if seconds >= LIMIT then return "too slow: " .. tostring(message) end
  if ok or message == nil or type(message) == "table" or message == "planted" then return nil end
  if type(message) ~= "string" then return "error value of type " .. type(message) end
  if message:find "^attempt to yield" or message:find "valid_calls%.lua:" then return nil end -- a callback's own
  if message:find "lib/hd" or message:find "%.lua:%d+:.*%.lua:%d+:" then return "a line of the library: " .. message end
  if not message:find "^user%.lua:2: " then return "not at the caller's line: " .. message end
  local body = message:sub(#"user.lua:2: " + 1)
  if body:find "attempt to " or body:find "bad argument" or body:find "'%?'" or body:find "not enough memory"
    or body:find "stack overflow" then
    return "Lua's own words: " .. body
  end
  if not body:find "^[%w_.:%[%]#]+: " then return "no place: " .. body end
  if not (body:find "got " or body:find "expected" or body:find "known: " or body:find "\n  hint: "
    or body:find "^memory: " or body:find "released") then
    return "no got and expected: " .. body
  end
end

-- Functions -------------------------------------------------------------------------------------------------------

-- Not called: what ends or outlives the process, or is the library's own wiring.
local LEFT_OUT = {
  ["core.preview_open"] = "opens a window, a process of its own; tests/lua/preview_spec.lua has its wrong calls",
  ["core.claim_interrupts"] = "changes the process's signals for good",
  ["core.set_module_call"] = "replaces what every layer is called through",
  ["core.raise"] = "raises whatever it is told to",
  ["core.file_fault"] = "makes system calls fail, for tests",
  ["core.plant_nan"] = "makes operations fail, for tests",
  ["core.fail_allocations"] = "makes allocations fail, for tests",
  ["core.limit_memory"] = "sets the limit that these calls run under",
}
-- The same by pattern.
local LEFT_OUT_LIKE = {
  ["^hd%.check%."] = "told constants by whoever writes a function",
  [":forward$"] = "called by the layer itself, in every step",
  [":extend$"] = "as hd.class, called when a script is loaded",
  [":upgrade_state$"] = "called by load_state_dict",
  ["^hd%.run%.Run"] = "needs an open run: tests/lua/run_spec.lua",
}

-- A tenth of the calls: these draw pictures or make models.
local SLOW = { ["hd.data.emoji"] = true, ["hd.data.shapes"] = true, ["hd.plot.lines"] = true, ["hd.nn.UNet"] = true }

local function is_left_out(name)
  if LEFT_OUT[name] then return true end
  for names in pairs(LEFT_OUT_LIKE) do
    if name:find(names) then return true end
  end
  return false
end

local function is_callable(f)
  local mt = getmetatable(f)
  return type(f) == "function" or type(mt) == "table" and mt.__call ~= nil
end

local function add(list, prefix, functions)
  local names = {}
  for name, f in pairs(functions) do
    if is_callable(f) and not is_left_out(prefix .. name) then names[#names + 1] = name end
  end
  table.sort(names)
  for _, name in ipairs(names) do list[#list + 1] = { name = prefix .. name, f = functions[name] } end
  return list
end

local GROUPS = {}

function GROUPS.core() return add({}, "core.", core) end
function GROUPS.op() return add({}, "op.", core.op) end
function GROUPS.method() return add({}, "x:", core.methods) end

-- Metamethods and the methods of the other objects of C.
function GROUPS.object()
  local list = add({}, "tensor.", getmetatable(hd.zeros(1)))
  add(list, "rng:", getmetatable(hd.rng(0)).__index)
  local registry = debug.getregistry()
  for _, name in ipairs { "hd.Loader", "hd.Held", "hd.ModeGuard", "hd.Scope", "hd.Generator", "hd.PreviewHandle" } do
    add(list, name .. ".", registry[name])
    if type(registry[name].__index) == "table" then add(list, name .. ":", registry[name].__index) end
  end
  return list
end

-- Every function, class and method of the reference that is written in Lua.
function GROUPS.library()
  local list = {}
  for _, entry in ipairs(docs.entries) do
    local f = entry.name:find "^hd%." and hd or nil
    for step in entry.name:gmatch "[.:]([%w_]+)" do f = f and f[step] end
    local native = type(f) == "function" and debug.getinfo(f, "S").what == "C"
    if f and entry.name ~= "hd" and is_callable(f) and not native and not is_left_out(entry.name) then
      list[#list + 1] = { name = entry.name, f = f }
    end
  end
  return list
end

local function right_call(name)
  local op = name:match "^op%.([%w_]+)$" or name:match "^x:([%w_]+)$" or name:match "^tensor%.__([%w_]+)$"
  return valid.calls[name] or op and valid.op(op:gsub("_$", ""))
end

local function live()
  collectgarbage()
  collectgarbage()
  return hd.memory().live
end

-- The arguments of call `seed`, and whether it runs in a coroutine.
local function prepare(target, seed)
  math.randomseed(seed)
  return arguments(target.right), random(30) == 1
end

-- The same message with other numbers, names and shapes is the same fault.
local function kind_of(fault)
  return (fault:gsub("%d[%d.e+-]*", "0"):gsub("'[^']*'", "'…'"):gsub("%[[%d,]*%]", "[]"):gsub("got [^,)]+", "got …")
    :gsub("a %a+ value", "a … value"))
end

local function call_all(target, last, report)
  target.right = right_call(target.name)
  local before, raised, slowest, seen = live(), 0, 0, {}
  local times = SLOW[target.name] and math.ceil(count / 10) or count
  for i = 1, times do
    local seed = first_seed + i - 1
    last:seek "set"
    last:write(("%-60s %12d\n"):format(target.name, seed))
    local args, in_coroutine = prepare(target, seed)
    local ok, message, seconds = call(target.f, args, in_coroutine)
    if not ok then raised = raised + 1 end
    slowest = math.max(slowest, seconds)
    local fault = faults(ok, message, seconds)
    if fault and not seen[kind_of(fault)] then
      seen[kind_of(fault)] = true
      report:write(("FAULT %s seed %d: %s\n"):format(target.name, seed, fault))
    end
    restore()
  end
  local left = live() - before
  if left ~= 0 and not target.keeps then
    report:write(("FAULT %s seed %d: %d native bytes are left of its calls\n"):format(target.name, first_seed, left))
  end
  report:write(("DONE %s: %d calls, %d raised, slowest %.3f s\n"):format(target.name, times, raised, slowest))
end

local function show(v)
  local ok, text = pcall(hd.check.show, v)
  return ok and text or "a " .. type(v) .. " that cannot be shown"
end

local function replay(name, seed)
  for _, list in pairs(GROUPS) do
    for _, target in ipairs(list()) do
      if target.name == name then
        target.right = right_call(name)
        local args, in_coroutine = prepare(target, seed)
        for i = 1, args.n do print(i, show(args[i])) end
        local ok, message = call(target.f, args, in_coroutine)
        print(ok and "returned" or "raised", ok and message.n or message)
        return
      end
    end
  end
  error("there is no function " .. name)
end

hd.threads(1)
debug.sethook(watch, "", 1000000)
local replayed = arg[2]
_G.arg = { [0] = "user.lua" } -- hd.args reads it

if group == "replay" then
  replay(replayed, first_seed)
else
  local last <close> = io.open("last", "w")
  local report <close> = io.open("report", "w")
  last:setvbuf "line"
  for _, target in ipairs(GROUPS[group]()) do
    if not pattern or target.name:find(pattern) then call_all(target, last, report) end
  end
  report:write "END\n"
end
