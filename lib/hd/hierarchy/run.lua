-- hd/hierarchy/run.lua: the one loop that draws levels in every regime.
-- Each level is drawn by its own sampler, a coroutine that asks for estimates. At each step of the path (clock.lua) the
-- samplers of those levels whose noise changes are let on by one step, and asked together, so that each sees the others
-- at the same point; all others stand still.
-- Calls: hierarchy/estimate, draw, tokens; hd.sampler. Called by: hierarchy/sample.

local check = require "hd.check"
local draw = require "hd.hierarchy.draw"
local estimate = require "hd.hierarchy.estimate"
local tokens = require "hd.hierarchy.tokens"
local sampler = require "hd.sampler"

local run = {}

-- The noise that a level passes through: the points of the path at which its own changes.
local function sigmas_of(level, path)
  local list = { path[1][level.name] }
  for _, point in ipairs(path) do
    if point[level.name] ~= list[#list] then list[#list + 1] = point[level.name] end
  end
  return list
end

-- Levels of kind mask have samplers of their own.
local function sampler_of(level, o)
  if level.kind == "mask" then return tokens.is_sampler(o.sampler) and o.sampler or level.sampler or tokens.sample end
  return not tokens.is_sampler(o.sampler) and o.sampler or level.sampler or sampler.heun
end

-- A level's sampler, not begun. `done` counts the steps that it has made, `goal` those that it should have made.
local function new_job(level, path, state, o)
  local job = { level = level, sigmas = sigmas_of(level, path), done = 0, goal = 0 }
  local draws = sampler_of(level, o)
  local options = {
    rng = draw.generators(o, 1001 * level.index, state.z[level.name]:size(1)),
    cond = level.kind == "mask" and level or nil,
    on_step = function(step)
      job.done = job.done + 1
      step.level = level.name
      if o.on_step then o.on_step(step) end
    end,
  }
  job.thread = coroutine.create(function()
    return draws(function(z, sigma) return coroutine.yield(z, sigma) end, state.z[level.name], job.sigmas, options)
  end)
  return job
end

-- Let a sampler on until it asks again or is done; the state is then what it asks about, or its result. Where levels
-- run together on_step tells which of its steps an answer is for.
local function resume(job, state, together, answer)
  local name = job.level.name
  local ok, z, sigma = coroutine.resume(job.thread, answer)
  if not ok then error(z, 0) end
  job.begun, job.over = true, coroutine.status(job.thread) == "dead"
  if job.over and job.done < #job.sigmas - 1 and together then
    check.fail("H:sample", "the sampler of level '%s' did not call on_step: it must where levels run together", name)
  end
  state.z[name], state.noise[name] = z, job.over and job.sigmas[#job.sigmas] or sigma
end

-- Those that have not made the steps of this point of the path yet, and their levels.
local function behind(jobs, state)
  local list, levels = {}, {}
  for _, job in ipairs(jobs) do
    if not job.over and job.done < job.goal then
      if not job.begun then resume(job, state, #jobs > 1) end
      if not job.over then list[#list + 1], levels[#levels + 1] = job, job.level end
    end
  end
  return list, levels
end

-- One step of the path, for the levels that move.
local function step(self, models, jobs, state, o)
  local list, levels = behind(jobs, state)
  while #list > 0 do
    local x0 = estimate.all(self, models, levels, state, o)
    for _, job in ipairs(list) do resume(job, state, #jobs > 1, x0[job.level.name]) end
    list, levels = behind(jobs, state)
  end
end

--- Draw levels along a path.
---@param self hd.hierarchy.Hierarchy
---@param models hd.hierarchy.Models?
---@param running hd.hierarchy.Level[]
---@param path table<string, number>[]
---@param state table  z and noise by level; changed
---@param o table      of H:sample
---@param arrived fun(): boolean?  called at the beginning and after each step; true ends it there
function run.along(self, models, running, path, state, o, arrived)
  local jobs = {}
  for i, level in ipairs(running) do jobs[i] = new_job(level, path, state, o) end
  local _ <close> = setmetatable({}, { __close = function()
    for _, job in ipairs(jobs) do coroutine.close(job.thread) end
  end })
  if arrived() then return end
  for q = 2, #path do
    local moving = {}
    for _, job in ipairs(jobs) do
      if path[q][job.level.name] ~= path[q - 1][job.level.name] then
        job.goal = job.goal + 1
        moving[#moving + 1] = job
      end
    end
    step(self, models, moving, state, o)
    if arrived() then return end
  end
end

return run
