-- hd/tool/bench/report.lua: from records to rows to a table. A record is one workload on one side in one round; a row
-- joins the rounds. Ratios are the median of the ratios within a round, where both sides ran right after each other.
-- Called by: session.lua, bench.lua, scripts/performance.lua.

local timing = require "hd.tool.bench.timing"

local report = {}

-- How many times faster than the peer, and at most what share of its memory.
local GOALS = {
  seed_model = { 2.5, 0.5 }, unet32 = { 2.2, 0.4 }, unet32_tiny = { 2.2, 0.4 }, sample32 = { 2.8, 0.25 },
  audio1d = { 1.6, 0.4 }, text = { 1.3, 0.5 }, startup = { 50, 0.1 }, gn_silu_fwd_bwd = { 2 }, randn_10M = { 3 },
  adam = { 1.5 }, adamw_10M = { 1.5 },
}

-- Records by what they measure, in order: { workload, threads, gemm, ours = { [round] = record }, peers = the same }
local function grouped(results)
  local list, by_key = {}, {}
  local function group(r, gemm)
    local key = ("%s|%d|%s"):format(r.name, r.threads, gemm or "")
    if not by_key[key] then
      by_key[key] = { workload = r.name, threads = r.threads, gemm = gemm, ours = {}, peers = {} }
      list[#list + 1] = by_key[key]
    end
    return by_key[key]
  end
  for _, r in ipairs(results) do
    if r.side ~= "peer" then group(r, r.gemm).ours[r.round or 1] = r end
  end
  for _, g in ipairs(list) do
    for _, r in ipairs(results) do
      if r.side == "peer" and r.name == g.workload and r.threads == g.threads then g.peers[r.round or 1] = r end
    end
  end
  return list
end

-- Medians over the rounds of fn(record of ours, record of the peer), where it gives a number.
local function over_rounds(g, last, fn)
  local values = {}
  for round = 1, last do
    local value = g.ours[round] and fn(g.ours[round], g.peers[round])
    if value then values[#values + 1] = value end
  end
  return #values > 0 and timing.median(values) or nil
end

local function field(name) return function(r) return r[name] end end
local function peer_field(name) return function(_, p) return p and p[name] end end
local function peer_over_ours(name) return function(r, p) return p and p[name] and r[name] and p[name] / r[name] end end

local function row(g, last, peaks, differences)
  local goal = GOALS[g.workload] or {}
  local speed, memory = over_rounds(g, last, field "gflops_per_s"), over_rounds(g, last, peer_over_ours "peak_rss_mib")
  return {
    workload = g.workload, threads = g.threads, gemm = g.gemm, ms = over_rounds(g, last, field "ms_median"),
    gflops_per_s = speed, peak_share = speed and peaks[g.threads] and speed / peaks[g.threads],
    gbytes_per_s = over_rounds(g, last, field "gbytes_per_s"),
    mib = over_rounds(g, last, field "peak_rss_mib"), peer_ms = over_rounds(g, last, peer_field "ms_median"),
    peer_mib = over_rounds(g, last, peer_field "peak_rss_mib"),
    ratio = over_rounds(g, last, peer_over_ours "ms_median"), memory_share = memory and 1 / memory,
    goal_ratio = goal[1], goal_memory_share = goal[2], loss_difference = differences[g.workload],
  }
end

--- Rows of a table: one for each workload, number of threads and choice of products.
---@param results table[]  records: name, threads, side, round, gemm, ms_median, peak_rss_mib, gflops_per_s
---@param peaks table<integer, number>  GF/s at most, by threads
---@param verified table[]  records of verify.replay
---@return table[]
function report.rows(results, peaks, verified)
  local rows, last, differences = {}, 1, {}
  for _, r in ipairs(results) do last = math.max(last, r.round or 1) end
  for _, r in ipairs(verified) do differences[r.name] = r.difference end
  for i, g in ipairs(grouped(results)) do rows[i] = row(g, last, peaks, differences) end
  return rows
end

-- title, value of a row as text or nil
local function number(format, name)
  return function(r) return r[name] and format:format(r[name]) end
end

-- Milliseconds with three digits that say something.
local function milliseconds(name)
  return function(r)
    local v = r[name]
    return v and (v >= 100 and "%.0f" or v >= 10 and "%.1f" or v >= 1 and "%.2f" or "%.3f"):format(v)
  end
end

local function goal(r)
  if not r.goal_ratio then return nil end
  local text = ("%.4g"):format(r.goal_ratio)
  return r.goal_memory_share and ("%s, %.2g"):format(text, r.goal_memory_share) or text
end

local COLUMNS = {
  { "workload", number("%s", "workload") }, { "threads", number("%d", "threads") },
  { "products", number("%s", "gemm") }, { "ms", milliseconds "ms" }, { "GF/s", number("%.1f", "gflops_per_s") },
  { "of peak", number("%.2f", "peak_share") }, { "GB/s", number("%.1f", "gbytes_per_s") },
  { "MiB", number("%.0f", "mib") }, { "peer ms", milliseconds "peer_ms" },
  { "peer MiB", number("%.0f", "peer_mib") }, { "times faster", number("%.2f", "ratio") },
  { "of its memory", number("%.2f", "memory_share") }, { "goals", goal },
  { "losses differ", number("%.0e", "loss_difference") },
}

-- Columns in which some row has something.
local function used_columns(rows)
  local used = {}
  for _, column in ipairs(COLUMNS) do
    local width = nil
    for _, r in ipairs(rows) do
      local text = column[2](r)
      if text then width = math.max(width or #column[1], #text) end
    end
    if width then used[#used + 1] = { title = column[1], text = column[2], width = width, left = #used == 0 } end
  end
  return used
end

--- The rows as a table of Markdown that can be read as it is.
---@param rows table[]
---@return string
function report.table(rows)
  local columns, lines = used_columns(rows), {}
  local function line(fn)
    local cells = {}
    for i, c in ipairs(columns) do
      cells[i] = ("%" .. (c.left and "-" or "") .. c.width .. "s"):format(fn(c) or "")
    end
    lines[#lines + 1] = "| " .. table.concat(cells, " | ") .. " |"
  end
  line(function(c) return c.title end)
  line(function(c) return c.left and ("-"):rep(c.width) or ("-"):rep(c.width - 1) .. ":" end)
  for _, r in ipairs(rows) do line(function(c) return c.text(r) end) end
  return table.concat(lines, "\n")
end

return report
