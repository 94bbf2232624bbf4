-- luacheck: Lua 5.4, lines up to 120 characters. It runs under its own interpreter (make lint-lua).
std = "lua54"
max_line_length = 120
self = false -- methods need not use it
ignore = { "581" } -- not (x <= y) is also true for NaN
exclude_files = { "lib/meta/hd.d.lua", "lib/hd/doc_data.lua" }
files["tests"] = { std = "lua54+busted" }
