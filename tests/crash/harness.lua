-- tests/crash/harness.lua: what the specs of tests/crash share: runs of train.lua in processes of their own, what they
-- have said so far, what they leave. Counts and long forms: tests/lua/rounds.lua.

local hd = require "hd"
local checkpoint = require "hd.run.checkpoint"

local harness = {}

local hdlua = assert(os.getenv "HDLUA", "HDLUA is not set: run by tests/run.sh")
local so = hdlua:gsub("[^/]*$", "tests/process.so")
local process = assert(package.loadlib(so, "luaopen_process"))()
harness.process, harness.hdlua = process, hdlua

local rounds = require "tests.lua.rounds"
harness.long, harness.times, harness.count = rounds.long, rounds.times, rounds.count

--- Random moments, other ones each time; HDLUA_SEED repeats those of a run.
function harness.randomise()
  local seed = tonumber(os.getenv "HDLUA_SEED") or os.time()
  math.randomseed(seed)
  harness.count("random moments from HDLUA_SEED=%d", seed)
end

function harness.read(path)
  local file <close> = io.open(path, "rb")
  return file and file:read "a" or ""
end

--- Counts by name, from 0: counts.name = counts.name + 1.
function harness.counts() return setmetatable({}, { __index = function() return 0 end }) end

--- A fresh folder.
function harness.folder()
  local pipe <close> = io.popen "mktemp -d"
  return pipe:read "l"
end

function harness.remove(folder) os.execute("rm -rf " .. folder) end

-- Jobs ------------------------------------------------------------------------------------------------------------

local Job = {}
Job.__index = Job

local PATIENCE = 120 -- seconds until a process that says nothing counts as hung

--- Start a command; `environment` are words of env: "NAME=value".
---@param words string[]
---@param environment? string[]
function harness.start(words, environment)
  local all = { "env", table.unpack(environment or {}) }
  table.move(words, 1, #words, #all + 1, all)
  local job = setmetatable({ out = os.tmpname(), begun = hd.clock() }, Job)
  job.pid = process.start(all, job.out)
  return job
end

--- Start train.lua in a folder, options as in { regime = "flat", resume = true }; on two threads unless told otherwise.
function harness.train(folder, options, environment)
  local words = { hdlua, "--threads=2", "tests/crash/train.lua", "--out", folder .. "/run" }
  for name, value in next, options do -- order free: options
    if value then words[#words + 1] = "--" .. name:gsub("_", "-") .. (value == true and "" or "=" .. value) end
  end
  return harness.start(words, environment)
end

--- What it has printed so far.
function Job:text() return harness.read(self.out) end

--- Wait until its output matches; false when it ends before that.
function Job:await(pattern)
  local stop = hd.clock() + PATIENCE
  while not self:text():find(pattern) do
    if self:ended(0) then return self:text():find(pattern) ~= nil end
    assert(hd.clock() < stop, "hung before '" .. pattern .. "':\n" .. self:text())
    process.sleep(0.002)
  end
  return true
end

--- Send a signal by its name.
function Job:signal(name) process.kill(self.pid, process[name]) end

--- Has it ended within so many seconds?
function Job:ended(seconds)
  if not self.how then self.how, self.code = process.wait(self.pid, seconds) end
  return self.how ~= nil
end

--- Wait for its end: "exit 0", "signal 9", and what it printed.
function Job:finish()
  if not self:ended(PATIENCE) then
    self:signal "KILL"
    self:ended(PATIENCE)
    error("hung:\n" .. self:text())
  end
  local text = self:text()
  os.remove(self.out)
  return self.how .. " " .. self.code, text
end

--- The processes that it has started.
function Job:children()
  local list = {}
  for pid in harness.read(("/proc/%d/task/%d/children"):format(self.pid, self.pid)):gmatch "%d+" do
    list[#list + 1] = math.tointeger(pid)
  end
  return list
end

--- Is there no such process any more? A zombie that nobody reaps counts as gone.
function harness.gone(pid)
  local state = harness.read(("/proc/%d/stat"):format(pid)):match "%) (%u)"
  return state == nil or state == "Z" or state == "X"
end

-- Runs ------------------------------------------------------------------------------------------------------------

--- cascade and flat, own and shared networks.
harness.variants = {
  { regime = "cascade", share = false }, { regime = "cascade", share = true },
  { regime = "flat", share = false }, { regime = "flat", share = true },
}

--- Options of a variant and more.
function harness.options(variant, more)
  local all = { regime = variant.regime, share = variant.share or nil }
  for name, value in next, more or {} do all[name] = value end
  return all
end

function harness.name(variant) return variant.regime .. (variant.share and ", shared network" or "") end

--- What a run has left at its end, as bytes; nil where it has not come to its end.
function harness.final(folder)
  local bytes = harness.read(folder .. "/run/final.safetensors")
  return #bytes > 0 and bytes or nil
end

--- Fail where two runs left different things, naming them.
function harness.same_final(whole, folder)
  if harness.final(whole) == harness.final(folder) then return end
  local a = assert(hd.load(whole .. "/run/final.safetensors"))
  local b, differing = assert(hd.load(folder .. "/run/final.safetensors")), {}
  for name, x in next, a do -- order free: sorted below
    if not (b[name] and x:equal(b[name])) then differing[#differing + 1] = name end
  end
  table.sort(differing)
  local few = table.concat(differing, " ", 1, math.min(5, #differing))
  error(("the runs differ in %d tensors: %s ..."):format(#differing, few))
end

--- A run that nobody disturbs; its folder and the seconds between two steps.
function harness.whole(variant, options)
  local folder = harness.folder()
  local how, text = harness.train(folder, harness.options(variant, options)):finish()
  assert(how == "exit 0", how .. "\n" .. text)
  local first, last, n = nil, nil, -1
  for clock in text:gmatch "@step %d+ ([%d.]+)" do
    first, last, n = first or tonumber(clock), tonumber(clock), n + 1
  end
  return folder, (last - first) / n
end

--- Names of temporary files that lie in a run's folder.
function harness.leftovers(folder)
  local list <close> = io.popen(("cd %s/run && ls -A | grep '[.]tmp[.]'"):format(folder))
  local names = {}
  for name in list:lines() do names[#names + 1] = name end
  return names
end

--- The step of the checkpoint in a folder, whether it is the one before the newest, and the message about the newest.
function harness.saved_step(folder)
  local found, message = checkpoint.load(folder .. "/run/checkpoint.safetensors")
  return found and found.tree.run.step, message
end

return harness
