-- tests/lua/fails.lua: a call must raise an error, at the line of the caller's own script, that says these words.

local assert = require "luassert"

return function(words, ...)
  local ok, message = pcall(...)
  assert.is_false(ok)
  assert.matches("fails.lua:%d+: ", message)
  assert.matches(words, message, 1, true)
end
