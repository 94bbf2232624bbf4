-- hd/tool/study/about.lua: what a page of results says of how it was made. Called by: augment_study,
-- compare, compare_text.

local hd = require "hd"

local about = {}

-- Where data and files lie is nobody's business: "cifar10:/home/me/cifar10" becomes "cifar10:cifar10".
local function without_folders(text) return (text:gsub("[^%s,:]*/", "")) end

--- Those options that the results depend on: "data=emoji size=32 ...".
---@param args table
---@param keys string[]
---@return string
function about.settings(args, keys)
  local words = {}
  for _, key in ipairs(keys) do
    local value = args[key]
    if value ~= nil then words[#words + 1] = ("%s=%s"):format(key, without_folders(tostring(value))) end
  end
  return table.concat(words, " ")
end

--- The command that is running: "hdlua -m compare --data emoji".
---@param tool string
---@return string
function about.command(tool)
  local words = { "hdlua -m " .. tool }
  for _, word in ipairs(arg) do words[#words + 1] = without_folders(word) end
  return table.concat(words, " ")
end

--- The processor, its cores and the threads in use.
---@return string
function about.machine()
  local m = require "hd.tool.bench.machine".describe()
  return ("%s, %d cores, %s, %d threads"):format(m.cpu or "unknown processor", m.cores, m.isa, hd.threads())
end

return about
