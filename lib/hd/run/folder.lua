-- hd/run/folder.lua: the folder of a run: locked, an earlier run moved away, or its checkpoint found and compared.
-- Calls: core, run/checkpoint, run/log. Called by: hd.run.

local core = require "hd.core"
local checkpoint = require "hd.run.checkpoint"
local logs = require "hd.run.log"

local folder = {}

-- Settings that may change when a run goes on: they do not change what is computed.
local FREE = { "out", "resume", "threads", "view", "save_every", "stop_at", "samples", "minutes", "on_nan" }

local function holds_run(dir)
  return core.path_kind(dir .. "/log.jsonl") or core.path_kind(dir .. "/checkpoint.safetensors")
end

-- Make the folder and lock it for this process; nil and a message where that fails or another process has it.
local function claim(run)
  local made, message = core.folder_make(run.out)
  if not made then return nil, message end
  local lock
  lock, message = core.hold_folder(run.out)
  if not lock then return nil, message end
  if message and not run.unlocked then
    run:say(("run: '%s' cannot be locked (%s): start no second run there"):format(run.out, message))
    run.unlocked = true
  end
  run.lock = lock
  return true
end

--- The folder is ours to write into: where it has vanished since, it is made and locked again, unless another run has
--- taken its place.
---@param run hd.Run
---@return boolean? done  true, or nil and a message
---@return string? message
function folder.hold(run)
  if run.lock:there() then return true end
  local gone = run.lock
  local fine, message = claim(run)
  if fine and holds_run(run.out) and not run.log_file.held:there() then
    run.lock:close()
    run.lock, fine, message = gone, nil, ("'%s' holds another run now: move that away"):format(run.out)
  end
  if not fine then return nil, message end
  gone:close()
  run.saved_step, run.times.save = nil, -math.huge -- a checkpoint is due
  run:say(("run: '%s' was gone: made it again"):format(run.out))
  return true
end

-- Rename an earlier run's folder, which is locked, to the first of DIR.1, DIR.2 … that is free, and begin a new one.
local function move_away(run)
  local k = 1
  while core.path_kind(("%s.%d"):format(run.out, k)) do k = k + 1 end
  local name = ("%s.%d"):format(run.out, k)
  local moved, message = os.rename(run.out, name)
  if not moved then return nil, "cannot move the earlier run away: " .. message end
  os.remove(name .. "/run.lock")
  run.lock:close()
  run:say(("moved the earlier run in '%s' to '%s'"):format(run.out, name))
  return claim(run)
end

-- Settings --------------------------------------------------------------------------------------------------------

--- The settings that decide what is computed, as texts: { ["setting.lr"] = "0.001" }.
---@param settings table
---@return table<string, string>
function folder.fixed_settings(settings)
  local free, texts = {}, {}
  for _, name in ipairs(FREE) do free[name] = true end
  for name, value in next, settings do -- order free: separate keys
    if not free[name] then texts["setting." .. name] = core.json_encode(value) end
  end
  return texts
end

-- The names of settings in which two tables of texts differ, sorted, each as "lr (0.001, now 0.01)".
local function differences(saved, now)
  local names = {}
  for key in next, now do names[key] = true end -- order free: a set
  for key in next, saved do -- order free: a set
    if key:find "^setting%." then names[key] = true end
  end
  local list = {}
  for key in next, names do -- order free: sorted below
    if saved[key] ~= now[key] then
      list[#list + 1] = ("%s (%s, now %s)"):format(key:sub(9), saved[key] or "not set", now[key] or "not set")
    end
  end
  table.sort(list)
  return list
end

--- What the last bits of results depend on, and the number of threads.
---@return table
function folder.versions()
  local v = core.versions and core.versions() or {}
  v.threads = core.threads()
  return v
end

-- What of it may change the last bits, and how it is called.
local DECIDING = { { "hdlua", "hdlua" }, { "isa", "instruction set" }, { "gemm", "products by" },
  { "accuracy", "accuracy" }, { "activations", "activations in" }, { "openblas", "OpenBLAS" },
  { "core", "OpenBLAS core" } }

-- Say where a checkpoint comes from another machine or program; returns what was said.
local function compare_versions(run, old)
  local own, list = folder.versions(), {}
  for _, entry in ipairs(DECIDING) do
    local key, name = entry[1], entry[2]
    if own[key] ~= old[key] then
      list[#list + 1] = ("the checkpoint comes from %s %s, this is %s: the last bits may differ"):format(name,
        old[key] or "unknown", own[key] or "unknown")
      run:say("run: " .. list[#list])
    end
  end
  return list
end

-- Opening ---------------------------------------------------------------------------------------------------------

-- Read the folder's checkpoint into run.saved; nil and a message where it is of another run or cannot be read.
local function find_checkpoint(run)
  local found, message = checkpoint.load(run.path)
  if not found then
    if message then return nil, "cannot resume: " .. message end
    run:say(("nothing to resume in '%s': starting from the beginning"):format(run.out))
    return true
  end
  if message then
    run:say(("run: %s; going on from the checkpoint before it"):format(message))
    os.rename(run.path, run.path .. ".damaged") -- else the next save would make it the one before
  end
  local differing = differences(found.texts, run.fixed)
  if #differing > 0 then
    return nil, ("'%s' is of a run with other settings: %s"):format(run.path, table.concat(differing, ", "))
  end
  if found.odd then run:say("run: " .. found.odd) end
  run.moved = compare_versions(run, core.json_decode(found.texts.versions or "{}"))
  run.saved, run.step, run.planned = found.tree, found.tree.run.step, found.tree.run.planned
  run.seconds_before = found.tree.run.seconds
  return true
end

local function open(run, resume)
  local fine, message = claim(run)
  if fine and not resume and holds_run(run.out) then fine, message = move_away(run) end
  if not fine then return nil, message end
  core.remove_stale(run.out)
  if resume then
    fine, message = find_checkpoint(run)
    if fine then fine, message = logs.trim(run.out .. "/log.jsonl", run.step) end
    if not fine then return nil, message end
  end
  run.log_file, message = logs.open(run.out .. "/log.jsonl", function() return folder.hold(run) end,
    function(text) run:say(text) end)
  return run.log_file, message
end

--- Make and lock the folder of a run, find the checkpoint to go on from, and open the log.
---@param run hd.Run
---@param resume boolean
---@return boolean done  false and a message where it cannot be
---@return string? message
function folder.open(run, resume)
  local fine, message = open(run, resume)
  if fine then return true end
  if run.lock then run.lock:close() end
  return false, "run.new: " .. message
end

return folder
