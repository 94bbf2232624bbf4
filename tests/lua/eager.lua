-- tests/lua/eager.lua: a young collection before every call of a C function, so that whatever C forgot to anchor on
-- Lua's stack is gone when it looks. Called by `make test-gc` through LUA_INIT. Reaches the main thread only.
collectgarbage "generational"

local getinfo, collect = debug.getinfo, collectgarbage
debug.sethook(function()
  if getinfo(2, "S").what == "C" then collect "step" end
end, "c")
