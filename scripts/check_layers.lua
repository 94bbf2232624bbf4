-- scripts/check_layers.lua: the direction of calls, read off the includes, and two habits of lib/ that keep runs
-- repeatable. Run by `make lint` from the root of the tree; prints what breaks a rule and fails.

local back_ends = { "backend/cpu", "backend/ref" }

-- What each folder of runtime/ may include; `never` takes away from that, `also` adds to it. The rest is forbidden.
local layers = {
  core = { may = { "core" } },
  io = { may = { "core", "io" } },
  preview = { may = { "core", "preview" } },
  backend = { may = { "core", "backend" }, never = { "core/tensor.h" } },
  ops = { may = { "core", "ops", "backend" }, never = back_ends },
  autograd = { may = { "core", "ops", "autograd" } },
  bind = { may = { "core", "io", "preview", "backend", "ops", "autograd", "bind" }, never = back_ends },
  app = { -- blas.h: main picks OpenBLAS's core before anything runs, and --version names it
    may = { "core", "io", "preview", "backend", "ops", "autograd", "bind", "app" }, never = back_ends,
    also = { "backend/cpu/blas.h" },
  },
}

-- Who alone may use a library: pattern of the include or pragma -> patterns of files.
local owners = {
  { "<lua%.h>", "^bind/", "^app/" },
  { "<lauxlib%.h>", "^bind/", "^app/" },
  { "<lualib%.h>", "^bind/", "^app/" },
  { "<cblas%.h>", "^backend/cpu/" },
  { "<omp%.h>", "^backend/cpu/", "^core/threads%.c$" },
  { "#pragma omp", "^backend/cpu/" },
  { "<SDL%.h>", "^preview/preview_sdl%.c$" },
  { "<SDL2/", "^app/main%.c$" }, -- SDL_version.h, for --version
  { "<sndfile%.h>", "^io/" },
  { "<stb", "^io/", "^preview/preview_draw%.c$" },
}

local faults = 0
local function fault(path, number, text)
  faults = faults + 1
  io.stderr:write(("%s:%d: %s\n"):format(path, number, text))
end

local function files(command)
  local list = {}
  for path in io.popen(command .. " | sort"):lines() do list[#list + 1] = path end
  return list
end

local function matches_any(text, patterns, first, plain)
  for i = first, #patterns do
    if plain and text:sub(1, #patterns[i]) == patterns[i] or not plain and text:find(patterns[i]) then return true end
  end
  return false
end

local function check_include(path, number, layer, target)
  local rules = layers[layer]
  local folder = target:match("^([^/]+)/")
  if not folder then return end -- a neighbour in the same folder
  local allowed = false
  for _, name in ipairs(rules.may) do allowed = allowed or name == folder end
  if rules.never and matches_any(target, rules.never, 1, true) then allowed = false end
  if rules.also and matches_any(target, rules.also, 1, true) then allowed = true end
  if not allowed then
    fault(path, number, ("%s/ may not include \"%s\""):format(layer, target))
  end
end

local function check_c(path)
  local inside = path:gsub("^runtime/", "")
  local layer = inside:match("^([^/]+)/")
  if not layer then return end -- runtime/hd.h: the overview for readers
  if not layers[layer] then return fault(path, 1, "unknown layer: " .. layer) end
  local number = 0
  for line in io.lines(path) do
    number = number + 1
    local target = line:match('^%s*#%s*include%s+"([^"]+)"')
    if target then check_include(path, number, layer, target) end
    for _, owner in ipairs(owners) do
      if line:find("^%s*#") and line:find(owner[1]) and not matches_any(inside, owner, 2) then
        fault(path, number, ("%s/ may not use %s"):format(layer, line:match("<(.-)>") or "OpenMP"))
      end
    end
  end
end

-- `pairs` over string keys has another order in each process (DESIGN rule 9); `debug` sees what it should not.
local function check_lua(path)
  local number = 0
  for line in io.lines(path) do
    number = number + 1
    local code = line:gsub("%-%-.*$", "")
    local loop = code:find("%f[%w_]pairs%s*%(") or code:find("%f[%w_]in%s+next%s*,")
    if loop and not line:find("%-%- order free: %S") then
      fault(path, number, "pairs without `-- order free: reason`: its order differs from process to process")
    end
    if code:find("%f[%w_]debug%.%a") then fault(path, number, "lib/ may not use debug") end
  end
end

for _, path in ipairs(files("find runtime -name '*.[ch]'")) do check_c(path) end
for _, path in ipairs(files("find lib -path lib/meta -prune -o -name '*.lua' -print")) do check_lua(path) end
os.exit(faults == 0)
