-- hd/hierarchy/stats.lua: measured statistics: each level is diffused in coordinates of mean 0 and variance 1.
-- A level's statistics are per channel (dimension 2 of z); "flat" stands for the unsplit x. Mask levels have none.

local check = require "hd.check"
local core = require "hd.core"

-- A number, list or tensor as [1, c, 1, ...] for tensors of the given rank.
local function per_channel(value, rank)
  if type(value) == "number" then return value end
  local shape = { 1, -1 }
  for d = 3, rank do shape[d] = 1 end
  local t = check.is_tensor(value) and value or core.tensor(value)
  return core.keep(t:reshape(shape):clone())
end

-- Mean and standard deviation of every channel over n and positions, in f64.
local function measure(z)
  local c = z:size(2)
  local rows = z:reshape(z:size(1), c, -1):permute(2, 1, 3):reshape(c, -1):to "f64"
  return rows:mean(2), rows:var({ 2 }, { unbiased = false }):sqrt()
end

-- Channels that never change keep their scale: there is nothing to standardise.
local function guarded(std)
  local list = std:totable()
  for i, s in ipairs(list) do
    if s < 1e-6 then list[i] = 1.0 end
  end
  return core.tensor(list)
end

local function sorted_names(t)
  local names = {}
  for name in next, t do names[#names + 1] = name end -- order free: sorted below
  table.sort(names)
  return names
end

return function(Hierarchy)
  --- Measure mean and standard deviation of every channel of every level. A constant channel gets standard deviation 1.
  ---@param data hd.Tensor|hd.data.Set
  ---@param opts? { n: integer }  entries to look at, 2048
  ---@return hd.hierarchy.Hierarchy self
  function Hierarchy:fit_stats(data, opts)
    local o = check.options("fit_stats", opts, { { "n", "integer", 2048 } })
    local _ <close> = core.no_grad()
    local x = self:batch_of(data, o.n)
    local z = self:split(x)
    for _, level in ipairs(self.levels) do
      if level.kind == "gaussian" then self:measure_level(level.name, z[level.name]) end
    end
    if self.levels[1].kind == "gaussian" then self:measure_level("flat", x) end
    return self
  end

  -- Keep the mean and the standard deviation of one level.
  function Hierarchy:measure_level(name, z)
    local mean, std = measure(z)
    self.stats[name] = { mean = per_channel(mean:to "f32", z:dim()), std = per_channel(guarded(std), z:dim()) }
  end

  --- Set statistics by hand: { name = { mean = number or per channel, std = ... } }; "flat" names the unsplit data.
  ---@param stats table
  ---@return hd.hierarchy.Hierarchy self
  function Hierarchy:set_stats(stats)
    for _, name in ipairs(sorted_names(stats)) do
      if name ~= "flat" then self:level(name) end
      local entry = stats[name]
      local rank = self.shapes and #(self.shapes[name] or self.shape) + 1 or 4
      self.stats[name] = { mean = per_channel(entry.mean or 0, rank), std = per_channel(entry.std or 1, rank) }
    end
    return self
  end

  -- A statistic in the type of z.
  local function as_type(value, z)
    if type(value) == "number" or value:dtype() == z:dtype() then return value end
    return value:to(z:dtype())
  end

  --- A level in standardised coordinates.
  function Hierarchy:standardise(name, z)
    local s = self.stats[name]
    if not s then return z end
    return (z - as_type(s.mean, z)) / as_type(s.std, z)
  end

  --- A level back in the data's units.
  function Hierarchy:unstandardise(name, z)
    local s = self.stats[name]
    if not s then return z end
    return z * as_type(s.std, z) + as_type(s.mean, z)
  end

  --- Statistics as tensors by name, for checkpoints.
  ---@return table<string, hd.Tensor>
  function Hierarchy:stats_dict()
    local out = {}
    for name, s in next, self.stats do -- order free: separate keys
      for _, key in ipairs { "mean", "std" } do
        out[name .. "." .. key] = type(s[key]) == "number" and core.tensor(s[key]) or s[key]
      end
    end
    return out
  end

  --- Put back what stats_dict gave.
  ---@param dict table<string, hd.Tensor>
  ---@return hd.hierarchy.Hierarchy self
  function Hierarchy:load_stats_dict(dict)
    local stats = {}
    for key, t in next, dict do -- order free: separate keys
      local name, part = key:match "^(.*)%.(%a+)$"
      stats[name] = stats[name] or {}
      stats[name][part] = t:dim() == 0 and t:item() or core.keep(t)
    end
    for name, s in next, stats do self.stats[name] = s end -- order free: separate keys
    return self
  end
end
