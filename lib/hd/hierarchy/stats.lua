-- hd/hierarchy/stats.lua: measured statistics: each level is diffused in coordinates of mean 0 and variance 1.
-- A level's statistics are per channel (dimension 2 of z); "flat" stands for the unsplit x. Mask levels have none.

local check = require "hd.check"
local core = require "hd.core"

-- A number as it is; a list or tensor of one number per channel as a tensor [c].
local function per_channel(value)
  if check.is_tensor(value) and value:dtype() == "bool" then
    check.fail("hierarchy", "a statistic is wrong: got %s, expected numbers", check.show(value))
  end
  if type(value) == "number" then return value end
  local t = check.is_tensor(value) and value or core.tensor(value, { dtype = "f32" })
  return core.keep(t:reshape(-1):clone())
end

-- Mean and standard deviation of every channel over n and positions, in f64.
local function measure(z)
  local c = z:size(2)
  local rows = z:reshape(z:size(1), c, -1):permute(2, 1, 3):reshape(c, -1):to "f64"
  return rows:mean(2), rows:var({ 2 }, { unbiased = false }):sqrt()
end

-- Channels that never change keep their scale: there is nothing to standardise.
local function guarded(name, std)
  local list = std:totable()
  for i, s in ipairs(list) do
    if s ~= s or s == math.huge then
      check.fail("fit_stats", "channel %d of '%s' holds values that are not finite", i, name)
    end
    if s < 1e-6 then list[i] = 1.0 end
  end
  return core.tensor(list)
end

-- The orthonormal cosine transform of n numbers: [n, n]. Source: Ahmed et al. 1974 (DCT-II).
local function cosines(n)
  local rows = {}
  for k = 0, n - 1 do
    rows[k + 1] = {}
    for i = 0, n - 1 do
      rows[k + 1][i + 1] = math.sqrt((k == 0 and 1 or 2) / n) * math.cos(math.pi * k * (2 * i + 1) / (2 * n))
    end
  end
  return core.tensor(rows)
end

-- How much more noise than white data a level needs to be hidden as well: with P its power spectrum of mean 1, the
-- typical power exp(E[P ln P]), as a standard deviation. 1 for white levels, more where neighbours say the same.
local function shift_of(z)
  if z:dim() < 3 or z:dim() > 4 then return 1.0 end
  local y = z:to "f32":matmul(cosines(z:size(-1)):transpose(1, 2))
  if z:dim() == 4 then y = cosines(z:size(3)):matmul(y) end
  local power = y:square():mean({ 1, 2 }):reshape(-1):to "f64"
  local p = power / math.max(1e-30, power:mean():item())
  return math.exp(0.5 * (p * (p + 1e-30):log()):mean():item())
end

-- Mean and deviation of a tensor's entries as one number each, for a person to read.
local function brief(value) return type(value) == "number" and value or value:mean():item() end

return function(Hierarchy)
  --- Measure mean and standard deviation of every channel of every level (a channel is one band where levels are
  --- folded) and how far a level's power spectrum is from white. A constant channel gets standard deviation 1; one
  --- picture is enough, its positions count. The result is part of tostring(H).
  ---@param data hd.Tensor|hd.data.Set
  ---@param opts? { n: integer, shift: boolean }  n: entries to look at, 2048; shift: move each level's schedule by the
  ---  measured factor, so that all levels lose their information at the same time t (false)
  ---@return hd.hierarchy.Hierarchy self
  function Hierarchy:fit_stats(data, opts)
    local o = check.options("fit_stats", opts, { { "n", "integer", 2048 }, { "shift", "boolean", false } })
    local _ <close> = core.no_grad()
    local x = self:batch_of(data, o.n)
    local z = self:split(x)
    for _, level in ipairs(self.levels) do
      if level.kind == "gaussian" then
        self:measure_level(level.name, z[level.name])
        self.shifts[level.name] = shift_of(self:standardise(level.name, z[level.name]))
        if o.shift then level.schedule = level.schedule:shift(self.shifts[level.name]) end
      end
    end
    if self.levels[1].kind == "gaussian" then self:measure_level("flat", x) end
    return self
  end

  -- A level's line in tostring(H).
  function Hierarchy:stats_line(name)
    local s = self.stats[name]
    if not s then return "" end
    local shift = self.shifts[name] and (", spectrum %.2f"):format(self.shifts[name]) or ""
    return (", mean %.3g, std %.3g%s"):format(brief(s.mean), brief(s.std), shift)
  end

  --- How far samples are from the measured statistics, level by level: mean, the largest shift of a channel's mean in
  --- standard deviations of the data, and energy, the mean variance of the channels relative to the data's (1 is
  --- right).
  ---@param x hd.Tensor  samples
  ---@return table<string, { mean: number, energy: number }>
  function Hierarchy:drift(x)
    local z, out = self:split(x), {}
    for _, level in ipairs(self.levels) do
      if self.stats[level.name] then
        local mean, std = measure(self:standardise(level.name, z[level.name]))
        out[level.name] = { mean = mean:abs():amax():item(), energy = std:square():mean():item() }
      end
    end
    return out
  end

  --- How much levels contradict each other: |split(join(z)) - z| / |z|, 0 where they are the split of some x. Levels
  --- that were drawn may contradict only where they hold more numbers than x (see hd.hierarchy.residual).
  ---@param z table<string, hd.Tensor>
  ---@return number
  function Hierarchy:consistency(z)
    local back, wrong, all = self:split(self:join(z)), 0, 0
    for _, level in ipairs(self.levels) do
      local own = z[level.name]:to "f64"
      wrong = wrong + (back[level.name]:to "f64" - own):square():sum():item()
      all = all + own:square():sum():item()
    end
    return math.sqrt(wrong / math.max(all, 1e-30))
  end

  -- Keep the mean and the standard deviation of one level.
  function Hierarchy:measure_level(name, z)
    local mean, std = measure(z)
    self.stats[name] = { mean = per_channel(mean:to "f32"), std = per_channel(guarded(name, std)) }
  end

  --- Set statistics by hand: { name = { mean = number or per channel, std = ... } }; "flat" names the unsplit data.
  ---@param stats table
  ---@return hd.hierarchy.Hierarchy self
  function Hierarchy:set_stats(stats)
    for _, name in ipairs(self:names_in(stats)) do
      if name ~= "flat" and self:level(name).kind == "mask" then
        check.fail("set_stats", "level '%s' is of kind mask: tokens have no statistics", name)
      end
      local o = check.options("set_stats: " .. name, stats[name],
        { { "mean", "number|table|tensor", 0 }, { "std", "number|table|tensor", 1 } })
      local entry = { mean = per_channel(o.mean), std = per_channel(o.std) }
      local least = type(entry.std) == "number" and entry.std or entry.std:amin():item()
      if least <= 0 or least ~= least then
        check.fail("set_stats", "std of '%s' is wrong: got %g, expected more than 0", name, least)
      end
      self.stats[name] = entry
    end
    return self
  end

  -- A statistic in the type of z and with its rank: [1, c, 1, ...].
  local function aligned(value, z)
    if type(value) == "number" then return value end
    local shape = { 1, -1 }
    for d = 3, z:dim() do shape[d] = 1 end
    return (value:dtype() == z:dtype() and value or value:to(z:dtype())):view(shape)
  end

  --- A level in standardised coordinates.
  function Hierarchy:standardise(name, z)
    check.arg("standardise", "z", z, "tensor")
    local s = self.stats[name]
    if not s then return z end
    return (z - aligned(s.mean, z)) / aligned(s.std, z)
  end

  --- A level back in the data's units.
  function Hierarchy:unstandardise(name, z)
    check.arg("unstandardise", "z", z, "tensor")
    local s = self.stats[name]
    if not s then return z end
    return z * aligned(s.std, z) + aligned(s.mean, z)
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
    for key, t in next, check.arg("load_stats_dict", "dict", dict, "table") do -- order free: separate keys
      local name, part = check.arg("load_stats_dict", "key", key, "string"):match "^(.*)%.(%a+)$"
      if not name or not check.is_tensor(t) then
        check.fail("load_stats_dict", "entry '%s' is wrong: got %s, expected LEVEL.mean or LEVEL.std and a tensor", key,
          check.show(t))
      end
      stats[name] = stats[name] or {}
      stats[name][part] = t:dim() == 0 and t:item() or core.keep(t)
    end
    for name, s in next, stats do self.stats[name] = s end -- order free: separate keys
    return self
  end

  -- So that a hierarchy may be part of a run's state.
  Hierarchy.state_dict, Hierarchy.load_state_dict = Hierarchy.stats_dict, Hierarchy.load_stats_dict
end
