-- hd/run/init.lua: `hd.run`, what a training script needs around its loop: a folder, a log, a progress line,
-- checkpoints, resuming, things that are due from time to time, pictures. The loop itself stays in the script.
--
--     local run <close> = assert(hd.run.new { out = "runs/a", settings = args, resume = args.resume,
--       state = { models = models, opt = opt } })
--     for step, x in run:steps(data:batches { size = 32 }, 1000) do
--       ...
--       run:log { loss = loss }
--       if run:due "samples" then run:show(H:sample(models, 16, { seed = 7 })) end
--     end
--
-- Files in the folder: checkpoint.safetensors (and .prev, the one before), log.jsonl, loss.png, samples_STEP.png; while
-- the run is open, run.lock, so that no second one is started there.
-- Only the clock decides what is due, so nothing done then may draw from the default generator: give it a seed.
-- Calls: core, run/folder, checkpoint, guard, log, progress, pictures. Called by: users' scripts.

local core = require "hd.core"
local class = require "hd.class"
local check = require "hd.check"
local checkpoint = require "hd.run.checkpoint"
local folder = require "hd.run.folder"
local Guard = require "hd.run.guard"
local logs = require "hd.run.log"
local Progress = require "hd.run.progress"

--- One run of training: its folder, log, checkpoints and pictures. Made by hd.run.new.
---@class hd.Run
---@field out string     the folder
---@field state table    what checkpoints hold; entries may be added until the first step
---@field step integer   steps that are done
---@field planned integer?  the length of the schedule, where a plan or a checkpoint has fixed it
local Run = class "hd.Run"

-- Seconds between two times that a thing of this name is due.
local DUE = { samples = 60, save = 30, preview = 7, plot = 60 }

--- Open a run: make its folder, or find the checkpoint to go on from. The folder is locked for this process until the
--- run is closed or the process has ended, however it ends.
--- Without `resume` an earlier run in the folder is moved to OUT.1 (OUT.2 …). With it, the run goes on from the last
--- checkpoint, and starts from the beginning where there is none. From here on the first Ctrl-C (or SIGTERM) is seen
--- when a step ends: the run is saved and the process ends with code 130; the second one kills.
---@param opts table  out: the folder; settings: the script's options, which must be the same when the run goes on (but
---  for out, resume, threads, view, save_every, stop_at, samples, minutes, on_nan); resume (false); state: { name =
---  object with state_dict() and load_state_dict(), generator, tensor or table of them }; save_every: seconds between
---  checkpoints (30; 0: every step); levels: names of levels in the order in which they are shown; on_nan: what happens
---  where the loss or the norm of the gradients is not finite, before an optimizer in `state` changes anything: "stop"
---  (default: an error; the state from before the step and the batch are saved as OUT/nan_step_STEP.safetensors, the
---  checkpoint stays), "skip" (the step counts and changes nothing; the 10th in a row stops) or "rollback" (back to the
---  last checkpoint, with other batches and draws; the third within 128 steps stops)
---@return hd.Run? run  nil and a message where the folder cannot be written or another run is open there, or where the
---  checkpoint is of another run
---@return string? message
local function new(opts)
  local o = check.options("run.new", opts, {
    { "out", "string", required = true }, { "settings", "table", {} }, { "resume", "boolean", false },
    { "state", "table", {} }, { "save_every", "number", DUE.save }, { "levels", "table", {} },
    { "on_nan", "string", "stop" },
  })
  if o.on_nan ~= "stop" and o.on_nan ~= "skip" and o.on_nan ~= "rollback" then
    check.fail("run.new", "on_nan is wrong: got '%s', expected 'stop', 'skip' or 'rollback'", o.on_nan)
  end
  if o.out == "" then check.fail("run.new", "out is empty, expected the name of a folder") end
  local run = Run()
  run.out = #o.out > 1 and o.out:gsub("/+$", "") or o.out
  run.path = run.out .. "/checkpoint.safetensors"
  run.state, run.save_every, run.levels = o.state, o.save_every, o.levels
  run.fixed, run.step, run.seconds_before = folder.fixed_settings(o.settings), 0, 0
  run.started, run.times, run.latest = core.clock(), {}, {}
  run.progress, run.guard = Progress(o.levels), Guard(run, o.on_nan)
  core.claim_interrupts()
  local fine, message = folder.open(run, o.resume)
  if not fine then return nil, message end
  run:event("start", { settings = o.settings, versions = folder.versions() })
  return run
end

-- Texts -----------------------------------------------------------------------------------------------------------

--- Print a line without disturbing the progress line.
---@param text string
function Run:say(text) self.progress:say(text) end

-- Seconds of training so far, those before the last resume included.
function Run:seconds() return self.seconds_before + core.clock() - self.started end

-- Write a line that is not a step's into the log; step: where it belongs, by default to the last one done.
function Run:event(name, fields, step)
  fields.event, fields.step = name, step or self.step
  self.log_file:write(fields)
end

-- The learning rate of the first optimizer in the state.
local function rate_of(state)
  local names = {}
  for name, entry in next, state do -- order free: sorted below
    if type(name) == "string" and type(entry) == "table" and entry.groups then names[#names + 1] = name end
  end
  table.sort(names)
  local group = names[1] and state[names[1]].groups[1]
  return group and group.lr
end

--- Log numbers of this step: a line in log.jsonl, and what the progress line shows.
--- `loss` and `levels` ({ name = loss }) are shown, and so is `rate`, by default that of the first optimizer in the
--- state. A loss that is not a finite number is an error, or refuses the step: see on_nan of hd.run.new.
---@param entry table  numbers, tensors without dimensions, texts, and tables of them
function Run:log(entry)
  local line = logs.plain(check.arg("run:log", "entry", entry, "table"))
  local step = self.current or self.step
  if type(line.loss) == "number" then self.guard:check_loss(line.loss) end
  line.step, line.seconds = step, math.floor(self:seconds() * 1000) / 1000
  line.rate = line.rate or rate_of(self.state)
  local pace = self.batch_size and self.progress:seconds_per_step(step)
  line.samples_per_s = pace and math.floor(self.batch_size / pace * 10) / 10
  self.log_file:write(line)
  self.latest = line
end

-- Checkpoints -----------------------------------------------------------------------------------------------------

-- A place that a run can go on from: steps done, default generator, place in the batches.
local function place_of(self, step)
  local batches = self.batches
  return {
    step = step, generator = core.rng_state(),
    batches = type(batches) == "table" and batches.state_dict and batches:state_dict() or nil,
  }
end

-- What a checkpoint holds: the tree, and texts beside it. place: where the run goes on from, by default here.
function Run:parts(place)
  local at = place or place_of(self, self.current or self.step)
  local texts = { versions = core.json_encode(folder.versions()) }
  for key, text in next, self.fixed do texts[key] = text end -- order free: separate keys
  return {
    state = self.state,
    run = {
      step = at.step, planned = self.length or self.planned, seconds = self:seconds(), generator = at.generator,
      batches = at.batches, guard = self.guard:state_dict(),
    },
  }, texts
end

--- Write the checkpoint now: state, default generator, place in the batches, step. In the loop's body the step at hand
--- counts as done. Where the disk refuses, training can go on: the checkpoint before stays.
---@return boolean? done  true, or nil and a message
---@return string? message
function Run:save()
  local tree, texts = self:parts()
  self.times.save = core.clock()
  local done, message = folder.hold(self)
  if done then
    self.log_file:sync() -- lines of steps that the checkpoint counts as done
    done, message = checkpoint.save(self.path, tree, texts)
  end
  if not done then return nil, message end
  self.saved_step = tree.run.step
  return true
end

-- Save, and say where it failed, not again for the same reason.
local function try_save(self)
  local done, message = self:save()
  if not done and self.trouble ~= message then self:say("run: the checkpoint was not written: " .. message) end
  if done and self.trouble then self:say "run: the checkpoint is written again" end
  self.trouble = not done and message or nil
  return done
end

--- Put the checkpoint that was found back into the state and the default generator; `run:steps` does it by itself.
---@return integer? step  steps that are done; nil where there is no checkpoint
function Run:resume()
  local saved = self.saved
  if not saved then return nil end
  self.saved, self.saved_step = nil, self.step
  local fits, message = pcall(checkpoint.restore, self.state, saved.state or {})
  if not fits then
    check.fail("run:resume", "'%s' is of another model: %s", self.path, (tostring(message):gsub("^[^\n]-:%d+: ", "")))
  end
  core.set_rng_state(saved.run.generator)
  self.place = saved.run.batches
  if saved.run.guard then self.guard:load_state_dict(saved.run.guard) end
  self:say(("resuming '%s' at step %d"):format(self.out, self.step))
  self:event("resume", { notes = self.moved[1] and self.moved or nil })
  return self.step
end

-- Interrupts ------------------------------------------------------------------------------------------------------

--- Has Ctrl-C, SIGTERM or SIGHUP asked the run to stop?
---@return boolean
function Run.interrupted(_) return core.interrupted() end

-- Save and end the process with code 130; at the prompt, raise.
local function leave(self)
  local fine = self.step == 0 or self.saved_step == self.step or try_save(self)
  if self.step == 0 then
    self:say "interrupted before the first step was done"
  else
    self:say(("interrupted after step %d%s"):format(self.step, fine and ": saved, --resume goes on from there" or ""))
  end
  self:close()
  if core.options.interactive then error("interrupted!", 0) end
  os.exit(fine and 130 or 1, true)
end

-- The step at hand is done.
local function count_step(self)
  if self.current then self.step, self.current = self.current, nil end
end

--- A function that ends an interrupted run in the middle of something long at the end of a step, such as drawing:
--- `H:sample(models, 16, { on_step = run:watch() })`. The step at hand then counts as done.
---@return function
function Run:watch()
  return function()
    if not core.interrupted() then return end
    count_step(self)
    leave(self)
  end
end

-- Planning --------------------------------------------------------------------------------------------------------

local function median(list)
  table.sort(list)
  return list[(#list + 1) // 2]
end

-- Seconds of one call of `measure`, after two calls that warm up; at most some five seconds in all.
local function time_calls(measure)
  local times, begun = {}, core.clock()
  for i = 1, 12 do
    local start = core.clock()
    measure()
    if i > 2 then times[#times + 1] = core.clock() - start end
    if core.interrupted() or (#times > 0 and core.clock() - begun > 4) then break end
  end
  return times[1] and median(times) or core.clock() - begun
end

--- Plan how many steps fit into a time, by measuring the speed once. Afterwards state and default generator are as
--- before. The number is written to the log and the checkpoint, so that schedules and resuming are exact; a run that
--- goes on keeps the number it has.
---@param minutes number
---@param measure function  does one step of training, on any batch
---@param opts? { share: number }  the part of the time that steps may take (0.9); the rest is for drawing and saving
---@return integer steps
function Run:plan(minutes, measure, opts)
  local o = check.options("run:plan", opts, { { "share", "number", 0.9 } })
  check.arg("run:plan", "minutes", minutes, "number")
  if self.planned then return self.planned end
  local before, generator = checkpoint.snapshot(self.state), core.rng_state()
  local seconds = time_calls(measure)
  checkpoint.restore(self.state, before)
  core.set_rng_state(generator)
  if core.interrupted() then leave(self) end
  local left = minutes * 60 - (core.clock() - self.started)
  self.planned = math.max(1, math.floor(left * o.share / seconds))
  self:event("plan", { steps = self.planned, seconds_per_step = seconds, minutes = minutes })
  self:say(("a step takes %.3f s: %d steps in %g minutes"):format(seconds, self.planned, minutes))
  return self.planned
end

-- Steps -----------------------------------------------------------------------------------------------------------

--- Is a thing due that is done every so many seconds? The first time so many seconds after the run was opened.
---@param name string
---@param seconds? number  known without it: samples (60), preview (7), save (30), plot (60)
---@return boolean
function Run:due(name, seconds)
  local every = seconds or DUE[name]
  if not every then check.fail("run:due", "'%s' needs the seconds between two times", tostring(name)) end
  local now = core.clock()
  if now - (self.times[name] or self.started) < every then return false end
  self.times[name] = now
  return true
end

-- Renew the line under the window's pictures; was a checkpoint asked for there?
local function serve_window(self)
  local window = self.shown
  if not window then return false end
  if self:due("window", 0.5) then window:text(self.progress:text(self.step, self.latest)) end
  for _, event in ipairs(window:poll()) do
    if event.kind == "save" then return true end
  end
  return false
end

-- The border between two steps.
local function end_step(self, last)
  local back = self.guard:end_step()
  count_step(self)
  if back then
    self.step = back
    self.progress:start(back, self.length)
    try_save(self) -- going on from there must not meet the same batch again
  end
  self.progress:show(self.step, self.latest, self.step == last or self.step == 1)
  local wanted = serve_window(self)
  if core.interrupted() then leave(self) end
  if wanted or self:due("save", self.save_every) then try_save(self) end
  if self:due "plot" then self:plot() end
end

-- All steps are done.
local function finish(self)
  if self.saved_step ~= self.step then try_save(self) end
  self:plot()
end

local function begin(self, batches, n)
  core.claim_interrupts()
  self:resume()
  if self.planned and self.planned ~= n then
    check.fail("run:steps", "the number of steps differs: got %d, expected %d as in '%s'", n, self.planned, self.path)
  end
  if self.place and type(batches) == "table" and batches.load_state_dict then batches:load_state_dict(self.place) end
  self.batches, self.length, self.place, self.current = batches, n, nil, nil
  self.progress:start(self.step, n)
  self.guard:arm()
  if self.guard.policy == "rollback" and self.saved_step ~= self.step then try_save(self) end
end

--- Iterate over the steps that are not done yet: `for step, x, labels in run:steps(batches, 1000) do`.
--- Restores state, default generator and place in the batches where the run goes on; saves when it is time, and at the
--- end. Leaving the loop by `break` or an error does not save.
---@param batches function|table  called for each step: returns x and labels. With state_dict() and load_state_dict()
---  its place is part of the checkpoint, as that of `set:batches`
---@param n integer  the length of the schedule
---@param opts? { stop_at: integer }  end after this step without changing the schedule
---@return fun(): integer?, any, any  then nil, nil and a value that ends the progress line when the loop is left
function Run:steps(batches, n, opts)
  check.arg("run:steps", "batches", batches, "callable")
  n = check.arg("run:steps", "n", n, "integer")
  if n < 0 then check.fail("run:steps", "n is wrong: got %d, expected at least 0", n) end
  local o = check.options("run:steps", opts, { { "stop_at", "integer", n } })
  begin(self, batches, n)
  local last = math.min(n, o.stop_at)
  if self.step >= last then self:say(("nothing left to do: step %d of %d is done"):format(self.step, n)) end
  local at_end <const> = setmetatable({}, { __close = function() -- by break or error too
    self.guard:rest()
    self.progress:close()
  end })
  return function()
    if self.current then end_step(self, last) end
    if self.step >= last then return finish(self) end
    local place = place_of(self, self.step)
    self.current = self.step + 1
    local x, labels = batches()
    self.guard:begin_step(place, { x = x, labels = labels })
    self.batch_size = check.is_tensor(x) and x:dim() > 0 and x:size(1) or nil
    return self.current, x, labels
  end, nil, nil, at_end
end

-- Closing ---------------------------------------------------------------------------------------------------------

--- End the run: log and window are closed. Where an interrupt came after the last step, leaving the block that holds
--- the run ends the process with code 130.
function Run:close()
  if self.closed then return end
  self.closed = true
  self:event("end", { skipped = self.guard.skipped > 0 and self.guard.skipped or nil })
  self.log_file:close()
  self.lock:close()
  self.progress:close()
  if self.shown then self.shown:close() end
end

function Run:__close(problem)
  local leaving = self.closed
  self:close()
  if leaving or problem ~= nil or core.options.interactive or not core.interrupted() then return end
  os.exit(130, true)
end

require "hd.run.pictures" (Run)
class.guard(Run, {
  "say", "log", "save", "resume", "watch", "plan", "due", "steps", "close", "plot", "preview", "show", "window",
})

return { new = new, Run = Run }
