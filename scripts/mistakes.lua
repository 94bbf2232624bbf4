-- scripts/mistakes.lua: the text of docs/mistakes.md: common mistakes, each with the smallest script that makes it,
-- what hdlua really says, and the cure. The scripts run here, so the page cannot differ from the program: `make docs`
-- writes it, `make lint-docs` fails where it is stale (scripts/gen_docs.lua calls this for both).
-- Returns a function: the path of hdlua -> the page.

-- { title, script, cure }; a script prints or fails.
local MISTAKES = {
  { "Shapes that do not multiply", [[
local x = hd.randn(8, 3)
print(x:matmul(hd.randn(8, 4)))]],
    "The last extent of the left side must be the one before the last of the right side. Here the sides want "
    .. "`x:transpose(1, 2):matmul(w)`." },

  { "The wrong number of channels", [[
local F = hd.nn.functional
print(F.conv2d(hd.randn(8, 3, 32, 32), hd.randn(64, 4, 3, 3)))]],
    "A weight is `[out, in / groups, height, width]`; the input must have its `in` channels." },

  { "The wrong number of channels, deep inside a model", [[
local nn = hd.nn
local Net = nn.Module:extend "Net"
function Net:init()
  self.head = nn.Conv2d(3, 8, 3, { padding = 1 })
  self.body = { nn.SiLU(), nn.Conv2d(16, 8, 3) }
end
function Net:forward(x)
  x = self.head(x)
  for _, layer in ipairs(self.body) do x = layer(x) end
  return x
end
local net = Net()
net(hd.randn(1, 3, 8, 8))]],
    "The message begins with the layer's path, counted as in Lua: `net.body[2]` gets 8 channels from `net.head` "
    .. "and was "
    .. "declared with 16. `net:summary({1, 3, 8, 8})` shows what comes out of each layer." },

  { "A picture without the dimension N", [[
local conv = hd.nn.Conv2d(3, 8, 3)
local picture = hd.zeros(3, 32, 32)
conv(picture)]],
    "Layers take batches: `conv(picture:unsqueeze(1))`, and `y:squeeze(1)` or `y[1]` afterwards." },

  { "Counting from 0", [[
local x = hd.arange(5)
print(x[0])]],
    "Elements, dimensions, classes and tokens count from 1, as everything in Lua; negative numbers count from "
    .. "the end." },

  { "Labels that count from 0", [[
local F = hd.nn.functional
local labels = hd.tensor({ 0, 1, 2 }, { dtype = "i64" })
print(F.cross_entropy(hd.randn(3, 3), labels))]],
    "Classes are 1 to the number of classes. hdlua's own readers convert files that count from 0; for labels of "
    .. "your own "
    .. "`labels + 1`." },

  { "An option that does not exist", [[
hd.nn.Conv2d(3, 8, 3, { pading = 1 })]],
    "A misspelt option is never ignored. `help(\"nn.Conv2d\")` at the prompt, or `hdlua --doc nn.Conv2d`." },

  { "An element type that does not exist", [[
local x = hd.zeros(3, { dtype = "float16" })]],
    "There are six types; PyTorch's names for them work too. Half precision exists in files only and is read as f32." },

  { "A view of something that lies in another order", [[
local x = hd.zeros(2, 3):transpose(1, 2)
print(x:view(6))]],
    "`view` never copies. `reshape` copies where it must, `contiguous` always gives row-major memory." },

  { "Going backward twice", [[
local x = hd.ones(3):requires_grad_()
local loss = (x * x):sum()
loss:backward()
loss:backward()]],
    "Backward frees what the forward computation kept. Compute the loss again, or add losses up and go backward "
    .. "once." },

  { "Going backward from something that is no single number", [[
local x = hd.ones(3):requires_grad_()
local y = x * 2
y:backward()]],
    "Reduce it (`y:sum()`, `y:mean()`), or give the gradient of what follows: `y:backward(hd.ones(3))`." },

  { "Going backward where nothing was recorded", [[
local x = hd.ones(3)
local loss = (x * x):sum()
loss:backward()]],
    "Only what depends on a tensor with `requires_grad_()` (as parameters are) is recorded, and nothing inside "
    .. "`hd.no_grad`. `x:detach()` ends the record as well." },

  { "Changing a parameter in place", [[
local w = hd.ones(3):requires_grad_()
w:sub_(0.1)]],
    "An update is not part of the computation: `hd.no_grad(function() w:sub_(0.1) end)`. Optimizers do it by "
    .. "themselves." },

  { "Changing in place what backward needs", [[
local x = hd.ones(3):requires_grad_()
local y = x:exp()
local z = y * y
y:add_(1)
z:sum():backward()]],
    "The product remembers `y` as it was. Use `y = y + 1`, which leaves the old tensor alone." },

  { "Using a tensor after its scope", [[
local best
do
  local scope <close> = hd.scope()
  best = hd.randn(3) * 2
end
print(best:sum())]],
    "A scope releases what was computed in it. Take along what is needed after it: `best = "
    .. "scope:keep(hd.randn(3) * 2)`." },

  { "Using a released tensor", [[
local x = hd.zeros(3)
x:release()
print(x + 1)]],
    "`release` gives the memory back at once. There is seldom a need for it: the collector does the same." },

  { "Mixing element types", [[
local a = hd.tensor({ 1, 2, 3 }, { dtype = "i64" })
local F = hd.nn.functional
print(F.linear(a, hd.ones(2, 3)))]],
    "Arithmetic converts by itself (i64 and f32 give f32), products and layers do not: `a:to \"f32\"`." },

  { "Adding in place what needs a wider type", [[
local count = hd.tensor({ 1, 2, 3 }, { dtype = "i64" })
count:add_(0.5)]],
    "In place the type must stay: `count = count + 0.5`." },

  { "A dot in the place of a colon", [[
local opt = hd.optim.Adam(hd.nn.Linear(3, 2):parameters(), { lr = 0.1 })
opt.step()]],
    "Methods are called with a colon, which hands the object over: `opt:step()`." },

  { "A method of a tensor with a dot", [[
local x = hd.ones(3)
print(x.sum())]],
    "`x:sum()`." },

  { "A list instead of tensors one by one", [[
local a, b = hd.zeros(2), hd.ones(2)
print(hd.cat(a, b))]],
    "`hd.cat` and `hd.stack` take one table: `hd.cat({ a, b }, 1)`." },

  { "A missing file", [[
local x = assert(hd.load "weights.safetensors")]],
    "What depends on the world gives nil and a message rather than an error, so that a script can go on without it. "
    .. "`assert` turns it into an error." },

  { "A checkpoint of another model", [[
local nn = hd.nn
local small = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
assert(hd.save("small.safetensors", small:state_dict()))
local large = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 2), nn.Linear(2, 1))
large:load_state_dict(assert(hd.load "small.safetensors"))]],
    "All differences come in one message and nothing is copied. `{ strict = false }` allows missing and "
    .. "additional names, "
    .. "never other shapes." },

  { "Going on with other settings", [[
local function train(settings)
  local net = hd.nn.Linear(2, 1)
  local run <close> = assert(hd.run.new { out = "run", settings = settings, resume = true, state = { net = net } })
  for _ in run:steps(function() end, 2) do end
end
train { width = 64 }
train { width = 32 }]],
    "A run goes on exactly as it would have, so its settings must be the same. Use another folder for other "
    .. "settings." },

  { "More memory than there is", [[
local x = hd.zeros(1000000, 1000000)]],
    "The message says how much was wanted; check the extents first. `hdlua --memory 4G` sets the limit." },

  { "A loss that is not a number", [[
local run <close> = assert(hd.run.new { out = "run", state = {} })
for step in run:steps(function() end, 100) do
  run:log { loss = hd.tensor(0) / 0 }
end]],
    "Lower the rate, clip the gradients (`hd.optim.clip_grad_norm_`), look at the data. `hd.detect_anomaly` names the "
    .. "operation that made the first NaN." },

  { "Giving a layer what is no layer", [[
local nn = hd.nn
local net = nn.Sequential(nn.Linear(3, 4), "relu", nn.Linear(4, 2))]],
    "A layer is a module or any function: `nn.Sequential(nn.Linear(3, 4), nn.functional.relu, nn.Linear(4, 2))`." },

  { "Noise levels in the wrong order", [[
local x = hd.sampler.heun(function(x) return x * 0 end, hd.randn(1, 3), { 0, 1, 10 })]],
    "Samplers go from much noise to none: the list falls and ends with 0, as `schedule:sigmas { steps = 18 }` "
    .. "gives it." },

  { "The order of pairs", [[
local sizes = { low = 1, middle = 2, high = 3 }
local names = {}
for name in pairs(sizes) do names[#names + 1] = name end
table.sort(names)
print(table.concat(names, " "))]],
    "Without the sort the order of `pairs` is another one in each process, and so would be all that follows it: random "
    .. "numbers, sums, files. Sort the names, or keep a list of them beside the table." },
}

local HEAD = [[
<!-- generated by scripts/mistakes.lua (make docs): change the list there instead -->
# Common mistakes

Each with the smallest script that makes it, what hdlua says (`make docs` ran every script to write this page), and the
cure. A message reads `script:line: where: what is wrong: got …, expected …`; the line is always yours, never one of the
library, and inside a model the path of the layer stands in front. `hd` is the library: run the scripts as
`hdlua -l hd script.lua`.
]]

local function read(path)
  local file <close> = assert(io.open(path))
  return (file:read "a")
end

local function write(path, text)
  local file <close> = assert(io.open(path, "w"))
  file:write(text)
end

-- What a script says in an empty folder, without hdlua's own name and the traceback.
local function said(hdlua, script)
  local pipe <close> = assert(io.popen "mktemp -d")
  local folder = pipe:read "l"
  write(folder .. "/script.lua", script .. "\n")
  os.execute(("cd %s && %s -l hd --memory 1G --view off script.lua >out 2>&1 </dev/null"):format(folder, hdlua))
  local text = read(folder .. "/out")
  os.execute("rm -rf " .. folder)
  text = text:gsub("[%d.]+ KiB by Lua", "… KiB by Lua") -- another number after each change of the library
  return (text:gsub("\nstack traceback:.*", ""):gsub("%s+$", ""):gsub(hdlua:gsub("%p", "%%%0"), "hdlua"))
end

return function(hdlua)
  local out = { HEAD }
  for _, mistake in ipairs(MISTAKES) do
    local title, script, cure = table.unpack(mistake)
    local text = said(hdlua, script)
    out[#out + 1] = ("## %s\n\n```lua\n%s\n```\n\n```\n%s\n```\n\n%s\n"):format(title, script, text, cure)
  end
  return table.concat(out, "\n")
end
