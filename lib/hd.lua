-- hd.lua: require "hd" gathers the public modules. Parts are loaded when first used, so that starting stays cheap.
-- Calls: hd.core (C), lib/hd/*.lua. Called by: users.

local core = require "hd.core"
require "hd.tensor"

local hd = {
  version = core.version,
}

-- Functions that live in C, under their public names.
for _, name in ipairs {
  "tensor", "zeros", "ones", "full", "empty", "arange", "linspace", "eye", "rand", "randn", "randint", "rand_like",
  "randn_like", "zeros_like", "ones_like", "rng", "seed", "no_grad", "checkpoint", "detect_anomaly", "scope", "backend",
  "accuracy", "activations", "threads", "clock", "memory", "reset_peak_memory", "interrupted",
} do
  hd[name] = core[name]
end
for _, name in ipairs { "cat", "where" } do hd[name] = core.op[name] end

-- Functions that live in Lua files of their own: name -> module that returns them.
local functions = { stack = "hd.tensor", gradcheck = "hd.gradcheck", load = "hd.file", save = "hd.file",
  profile = "hd.profile" }

local modules = {
  "args", "audio", "check", "data", "file", "guidance", "hierarchy", "image", "linalg", "metrics", "nn", "optim",
  "plot", "preview", "run", "sampler", "schedule", "text",
}
local is_module = {}
for _, name in ipairs(modules) do is_module[name] = true end

-- Every name that is loaded when first used, for completion.
local later = { table.unpack(modules) }
for name in next, functions do later[#later + 1] = name end -- order free: completion sorts

return setmetatable(hd, {
  __name = "hd",
  __names = later,
  __index = function(self, key)
    local value
    if is_module[key] then
      value = require("hd." .. key)
    elseif functions[key] then
      value = require(functions[key])[key]
    end
    rawset(self, key, value)
    return value
  end,
})
