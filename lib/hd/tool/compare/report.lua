-- hd/tool/compare/report.lua: from the points of the cells to tables and curves. A figure is the median over the seeds;
-- its interval reaches from the lowest to the highest end of the seeds' own 95 % intervals.
-- Called by: compare.lua.

local hd = require "hd"

local report = {}

local function median(values)
  if #values == 0 then return nil end
  table.sort(values)
  local middle = (#values + 1) // 2
  return #values % 2 == 1 and values[middle] or (values[middle] + values[middle + 1]) / 2
end

-- Points that stand for the same place in different seeds, in order: { point, share, steps, list of records }.
local function places(points, wanted)
  local list, by_key = {}, {}
  for _, r in ipairs(points) do
    if wanted[r.point] then
      local key = ("%g|%s"):format(r.share, r.sample_steps or "")
      if not by_key[key] then
        by_key[key] = { share = r.share, steps = r.sample_steps or 0, records = {} }
        list[#list + 1] = by_key[key]
      end
      table.insert(by_key[key].records, r)
    end
  end
  return list
end

local function of(records, name)
  local values = {}
  for _, r in ipairs(records) do values[#values + 1] = r[name] end
  return median(values)
end

local function interval(records, name)
  local low, high = math.huge, -math.huge
  for _, r in ipairs(records) do low, high = math.min(low, r[name .. "_low"]), math.max(high, r[name .. "_high"]) end
  return low, high
end

local function number(v, form) return v and form:format(v) or "–" end

-- Words of a seed's record that hold several numbers, "1.02 0.98" or "shapes:0.1 colours:0.2": medians one by one.
local function of_words(records, name)
  local columns, names = {}, {}
  for _, r in ipairs(records) do
    local k = 0
    for word in (r[name] or ""):gmatch "%S+" do
      k = k + 1
      local title, value = word:match "^(.-):?(%-?[%d.einfa+-]+)$"
      columns[k], names[k] = columns[k] or {}, title
      table.insert(columns[k], tonumber(value))
    end
  end
  local words = {}
  for k, values in ipairs(columns) do
    words[k] = (names[k] ~= "" and names[k] .. " " or "") .. ("%.3f"):format(median(values) or 0 / 0)
  end
  return #words > 0 and table.concat(words, ", ") or "–"
end

-- Tables ----------------------------------------------------------------------------------------------------------

-- Rows of cells as Markdown.
local function markdown(rows)
  local lines = {}
  for i, row in ipairs(rows) do
    lines[#lines + 1] = "| " .. table.concat(row, " | ") .. " |"
    if i == 1 then lines[#lines + 1] = "|" .. (" --- |"):rep(#row) end
  end
  return table.concat(lines, "\n")
end

local function with_interval(records, name, form)
  local low, high = interval(records, name)
  return ("%s [%s, %s]"):format(number(of(records, name), form), form:format(low), form:format(high))
end

local function main_row(arm, r)
  return { arm, #r, number(of(r, "parameters"), "%.0f"), number(of(r, "steps"), "%.0f"),
    number(of(r, "minutes"), "%.2f"), number(of(r, "tflop"), "%.3g"), number(of(r, "sample_gflop"), "%.2f"),
    number(of(r, "sample_seconds"), "%.0f"), with_interval(r, "frechet", "%.2f"), with_interval(r, "kernel", "%.3f"),
    number(of(r, "precision"), "%.2f"), number(of(r, "recall"), "%.2f"), number(of(r, "two_sample"), "%.2f"),
    number(of(r, "recognised"), "%.2f") }
end

local function detail_row(arm, r)
  return { arm, number(of(r, "sliced"), "%.4f"), of_words(r, "levels"), number(of(r, "spectrum"), "%.2f"),
    number(of(r, "mean_shift"), "%.4f"), of_words(r, "bands"), number(of(r, "copies"), "%.3f"),
    of_words(r, "chain_gap") }
end

-- Arms with finished cells, and their records at the end.
local function ends(store, arms)
  local list = {}
  for _, arm in ipairs(arms) do
    local found = places(store:points(arm), { ["end"] = true })[1]
    if found then list[#list + 1] = { name = arm, records = found.records } end
  end
  return list
end

-- One sentence: which arm has the lowest Fréchet distance, and which intervals reach it.
local function verdict(list)
  local best, close = nil, {}
  for _, arm in ipairs(list) do
    if arm.name ~= "real" and (not best or of(arm.records, "frechet") < of(best.records, "frechet")) then best = arm end
  end
  if not best or #list < 2 then return "" end
  local _, high = interval(best.records, "frechet")
  for _, arm in ipairs(list) do
    if arm ~= best and arm.name ~= "real" and interval(arm.records, "frechet") <= high then
      close[#close + 1] = arm.name
    end
  end
  return ("Lowest Fréchet distance: **%s**%s."):format(best.name, #close > 0
    and "; its interval meets that of " .. table.concat(close, ", ") or "; the other intervals lie apart from its own")
end

local function sampling_rows(store, arms)
  local rows = { { "arm", "sampling steps", "calls", "GFLOP a picture", "Fréchet distance", "s for all pictures" } }
  for _, arm in ipairs(arms) do
    local list = places(store:points(arm), { sample = true, ["end"] = true })
    table.sort(list, function(a, b) return a.steps < b.steps end)
    for _, place in ipairs(list) do
      local r = place.records
      rows[#rows + 1] = { arm, place.steps, number(of(r, "calls"), "%.0f"), number(of(r, "sample_gflop"), "%.2f"),
        with_interval(r, "frechet", "%.2f"), number(of(r, "sample_seconds"), "%.0f") }
    end
  end
  return rows
end

--- The page of one study.
---@param store table
---@param about { title: string, command: string, machine: string, features: string, arms: string[], curves: string[],
---  pictures: string[] }
---@return string
function report.page(store, about)
  local main = { { "arm", "seeds", "parameters", "steps", "minutes", "TFLOP of training", "GFLOP a picture",
    "s for all pictures", "Fréchet distance", "kernel distance", "precision", "recall", "two-sample accuracy",
    "class recognised" } }
  local detail = { { "arm", "sliced W.", "sliced W. of levels", "spectrum, dB", "mean shift", "band energy", "copies",
    "chain gap" } }
  local list = ends(store, { "real", table.unpack(about.arms) })
  for _, arm in ipairs(list) do
    main[#main + 1], detail[#detail + 1] = main_row(arm.name, arm.records), detail_row(arm.name, arm.records)
  end
  local parts = {
    "<!-- written by hdlua -m compare from the .tsv beside it -->\n# " .. about.title,
    "Command: `" .. about.command .. "`  \nMachine: " .. about.machine .. "  \nFeatures: " .. about.features,
    "Figures are medians over the seeds; in brackets from the lowest to the highest end of the seeds' 95 % intervals. "
      .. "`real` is one part of the real pictures beside another: the scale of each figure.",
    markdown(main), verdict(list), markdown(detail),
    "Band energy: low band, then details from coarse to fine, relative to real ones. Copies: 0.01 is honest.",
  }
  if #store.records > 0 then parts[#parts + 1] = "## Sampling\n\n" .. markdown(sampling_rows(store, about.arms)) end
  for _, name in ipairs(about.curves) do parts[#parts + 1] = ("![%s](%s)"):format(name, name) end
  for _, name in ipairs(about.pictures) do parts[#parts + 1] = ("%s:\n\n![%s](%s)"):format(name, name, name) end
  return table.concat(parts, "\n\n") .. "\n"
end

-- Curves ----------------------------------------------------------------------------------------------------------

local CURVES = {
  { file = "minutes", x = "minutes", label = "minutes of training", points = { train = true, ["end"] = true } },
  { file = "flop", x = "tflop", label = "TFLOP of training", points = { train = true, ["end"] = true } },
  { file = "calls", x = "calls", label = "calls of networks a picture", points = { sample = true, ["end"] = true } },
  { file = "sampling", x = "sample_gflop", label = "GFLOP a picture", points = { sample = true, ["end"] = true } },
}

--- Draw the Fréchet distance against minutes, FLOPs, calls and sampling FLOPs: STEM-minutes.png ...
---@param store table
---@param stem string   path without ending
---@param title string
---@param arms string[]
---@return string[] files  names in the folder of `stem`
function report.curves(store, stem, title, arms)
  local files = {}
  for _, curve in ipairs(CURVES) do
    local series = {}
    for _, arm in ipairs(arms) do
      local x, y, list = {}, {}, places(store:points(arm), curve.points)
      table.sort(list, function(a, b) return of(a.records, curve.x) < of(b.records, curve.x) end)
      for i, place in ipairs(list) do x[i], y[i] = of(place.records, curve.x), of(place.records, "frechet") end
      if #x > 0 then series[#series + 1] = { name = arm, x = x, y = y } end
    end
    if #series > 0 then
      local path = ("%s-%s.png"):format(stem, curve.file)
      assert(hd.image.save(path, hd.plot.lines(series, {
        title = title, x_label = curve.label, y_label = "Frechet distance", log_x = true, log_y = true,
      })))
      files[#files + 1] = path:match "[^/]+$"
    end
  end
  return files
end

return report
