-- hd/tool/augment/report.lua: the page of a study: how often each classifier is right, and what drawn pictures add,
-- by Student's intervals over the draws of real pictures. Called by: augment_study.lua.

local core = require "hd.core"
local interval = require "hd.metrics.interval"
local about = require "hd.tool.study.about"
local classifier = require "hd.tool.augment.classifier"

local report = {}

--- The name of one way to learn from n pictures a class: "20 standard", "20 both guided".
---@param n integer
---@param arm table      of classifier.arms
---@param setting table  of augment_study
---@return string
function report.arm_name(n, arm, setting)
  return ("%d %s%s"):format(n, arm.name, arm.made and " " .. setting.name or "")
end

-- The mean over the classifier's seeds for each draw of an arm, in percent, as { [draw] = mean }.
local function by_draw(store, name)
  local sums, counts = {}, {}
  for _, r in ipairs(store:points(name)) do
    sums[r.seed], counts[r.seed] = (sums[r.seed] or 0) + 100 * r.accuracy, (counts[r.seed] or 0) + 1
  end
  for draw, sum in next, sums do sums[draw] = sum / counts[draw] end -- order free: separate draws
  return sums
end

-- Over the draws that both have; b nil: a alone.
local function values_of(a, b, draws)
  local list = {}
  for draw = 1, draws do
    if a[draw] and (not b or b[draw]) then list[#list + 1] = a[draw] - (b and b[draw] or 0) end
  end
  return list
end

local function with_interval(values, form)
  if #values < 2 then return "–" end
  local found = interval.of_mean(values)
  return ((form .. " [" .. form .. ", " .. form .. "]"):format(found.mean, found.low, found.high))
end

local function each(values)
  local words = {}
  for i, v in ipairs(values) do words[i] = ("%+.2f"):format(v) end
  return table.concat(words, ", ")
end

-- Accuracy of every arm under the first setting.
local function write_accuracies(store, page, lines)
  local names = {}
  for i, arm in ipairs(classifier.arms) do names[i] = arm.name end
  lines[#lines + 1] = ("| real pictures a class | %s |"):format(table.concat(names, " | "))
  lines[#lines + 1] = "|" .. (" --- |"):rep(1 + #names)
  for _, n in ipairs(page.counts) do
    local cells = {}
    for i, arm in ipairs(classifier.arms) do
      cells[i] = with_interval(values_of(by_draw(store, report.arm_name(n, arm, page.settings[1])), nil, page.draws),
        "%.2f")
    end
    lines[#lines + 1] = ("| %d | %s |"):format(n, table.concat(cells, " | "))
  end
end

-- Paired differences of one setting.
local function write_differences(store, page, n, setting, lines)
  local means = {}
  for _, arm in ipairs(classifier.arms) do means[arm.name] = by_draw(store, report.arm_name(n, arm, setting)) end
  for _, pair in ipairs { { "standard", "real" }, { "synthetic", "real" }, { "both", "standard" } } do
    local values = values_of(means[pair[1]], means[pair[2]], page.draws)
    if #values > 0 and (setting == page.settings[1] or pair[1] == "both") then
      lines[#lines + 1] = ("| %d | %s | %s − %s | %s | %s |"):format(n,
        pair[1] == "standard" and "–" or setting.name, pair[1], pair[2], with_interval(values, "%+.2f"), each(values))
    end
  end
end

--- Write the page anew.
---@param store table  hd.tool.study.store
---@param page table   stem, name, command, counts, draws, seeds, settings
function report.write(store, page)
  local lines = {
    "<!-- written by hdlua -m augment_study from the .tsv beside it -->",
    ("# %s: do drawn pictures help a classifier?"):format(page.name), "",
    ("Command: `%s`  "):format(page.command), ("Machine: %s"):format(about.machine()), "",
    ("Right answers in percent about all other pictures of the set, the mean over %d seeds of the classifier and %d "
      .. "draws of real pictures, each with a generator of its own; in brackets the 95 %% interval over the draws. "
      .. "Drawn pictures: setting '%s'."):format(page.seeds, page.draws, page.settings[1].name), "",
  }
  write_accuracies(store, page, lines)
  lines[#lines + 1] = "\nDifferences in points, paired by draw and seed, and those of each draw:\n"
  lines[#lines + 1] = "| real pictures a class | setting | difference | mean and 95 % interval | each draw |"
  lines[#lines + 1] = "|" .. (" --- |"):rep(5)
  for _, n in ipairs(page.counts) do
    for _, setting in ipairs(page.settings) do write_differences(store, page, n, setting, lines) end
  end
  lines[#lines + 1] = ""
  for _, setting in ipairs(page.settings) do
    lines[#lines + 1] = ("- `%s`: %s"):format(setting.name, setting.note)
  end
  local file = page.stem:match "[^/]+$" .. ".png"
  if core.path_kind(page.stem .. ".png") then
    lines[#lines + 1] = ("\n%d real pictures a class, first draw: two of each class that were learnt from, and below "
      .. "them drawn ones, a line for each setting.\n\n![%s](%s)"):format(page.counts[1], file, file)
  end
  assert(core.file_write(page.stem .. ".md", table.concat(lines, "\n") .. "\n"))
end

return report
