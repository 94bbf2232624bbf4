-- luacheck: Lua 5.4, lines up to 120 characters. It runs under its own interpreter (make lint-lua).
std = "lua54"
max_line_length = 120
exclude_files = { "lib/meta/hd.d.lua", "lib/hd/doc_data.lua" }
files["tests"] = { std = "lua54+busted" }
