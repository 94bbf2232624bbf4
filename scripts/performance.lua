-- scripts/performance.lua: from what the bench has measured to the tables of docs/PERFORMANCE.md and its plots.
--
--     hdlua -m bench --threads 1,2 --rounds 3 --gemm kernel,blas --verify --json build/bench.json
--     hdlua -m bench --threads 1,2 --rounds 1 --workload growth --json build/growth.json
--     hdlua scripts/performance.lua --bench build/bench.json --growth build/growth.json
--
-- `make performance` does all three.
-- In the page, the lines between <!-- NAME --> and <!-- /NAME --> are replaced; all else is written by hand.

local hd = require "hd"
local core = require "hd.core"
local report = require "hd.tool.bench.report"
local models = require "hd.tool.bench.models"

local args = hd.args({ bench = "build/bench.json", growth = "build/growth.json", out = "docs" }, {
  "Fill PERFORMANCE.md and draw its plots.", bench = "of the reference workloads: files with commas between them",
  growth = "of the group growth",
  out = "folder of the page",
})

local function read(path)
  local file <close> = assert(io.open(path))
  return file:read "a"
end

-- Files of several calls of the bench, with commas between them, count as one.
local function measured(paths)
  local all
  for path in paths:gmatch "[^,]+" do
    local data = core.json_decode(read(path))
    for _, key in ipairs { "results", "table", "verified" } do
      if all then table.move(data[key], 1, #data[key], #all[key] + 1, all[key]) end
    end
    all = all or data
  end
  return all
end

local NOTHING = "Not measured in the last run (`make performance` does)."
local bench = measured(args.bench)
local growth = io.open(args.growth) and measured(args.growth) or { machine = bench.machine, table = {} }
local fast = {} -- rows with the default choice of products: "workload threads" -> row
for _, r in ipairs(bench.table) do
  if r.gemm ~= "blas" then fast[r.workload .. " " .. r.threads] = r end
end

local function counts_of(data)
  local list = {}
  for i, m in ipairs(data.machine.measured) do list[i] = m.threads end
  return list
end

-- Tables ----------------------------------------------------------------------------------------------------------

local function is_in(list)
  local set = {}
  for _, name in ipairs(list) do set[name] = true end
  return function(r) return set[r.workload] end
end

local function chosen(rows, accept)
  local list = {}
  for _, r in ipairs(rows) do
    if accept(r) then list[#list + 1] = r end
  end
  return list
end

local function markdown(head, rows)
  local lines = { "| " .. table.concat(head, " | ") .. " |", "| ---" .. (" | ---:"):rep(#head - 1) .. " |" }
  for _, row in ipairs(rows) do lines[#lines + 1] = "| " .. table.concat(row, " | ") .. " |" end
  return table.concat(lines, "\n")
end

local section = {}

function section.machine()
  local m, rows = bench.machine, {}
  for i, r in ipairs(m.measured) do
    rows[i] = {
      r.threads, ("%.0f"):format(r.gflops_per_s), ("%.0f"):format(r.copy_256k), ("%.0f"):format(r.copy_4m),
      ("%.1f"):format(r.copy_256m),
    }
  end
  return ("%s, %d cores, %s; hdlua %s, PyTorch %s, medians of %d rounds.\n\n"):format(m.cpu, m.cores, m.isa, m.hdlua,
    section.peer_version(), section.rounds()) .. markdown({
      "threads", "multiply-adds, GF/s", "copying 256 KiB, GB/s", "4 MiB", "256 MiB",
    }, rows)
end

function section.peer_version()
  for _, r in ipairs(bench.results) do
    if r.torch then return r.torch end
  end
  return "(none beside it)"
end

function section.rounds()
  local last = 0
  for _, r in ipairs(bench.results) do last = math.max(last, r.round) end
  return last
end

function section.models() return report.table(chosen(bench.table, is_in(models.names))) end

function section.operations()
  local is_model = is_in(models.names)
  return report.table(chosen(bench.table, function(r) return not is_model(r) and not r.workload:find "^conv_" end))
end

-- One row for each shape and number of threads: GF/s and how many times faster, of each of the three parts.
function section.convolutions()
  local rows = {}
  for _, threads in ipairs(counts_of(bench)) do
    for _, r in ipairs(bench.table) do
      local shape = r.workload:match "^conv_(.*)/fwd$"
      if shape and r.threads == threads and r.gemm ~= "blas" then
        local row = { (shape:gsub("_", " ")), threads }
        for _, part in ipairs { "fwd", "bwd_data", "bwd_weight" } do
          local p = fast[("conv_%s/%s %d"):format(shape, part, threads)]
          row[#row + 1] = ("%.0f"):format(p.gflops_per_s)
          row[#row + 1] = p.ratio and ("%.2f"):format(p.ratio) or ""
        end
        rows[#rows + 1] = row
      end
    end
  end
  if #rows == 0 then return NOTHING end
  return "![roofline](roofline.png)\n\n" .. markdown({
    "N Cin Cout H k stride", "threads", "forward, GF/s", "times faster", "backward-data", "times faster",
    "backward-weights", "times faster",
  }, rows)
end

-- How many times faster a model is on all the threads than on the first number of them, on both sides.
function section.threads()
  local counts, head, rows = counts_of(bench), { "times faster than on 1 thread" }, {}
  for _, n in ipairs(counts) do
    if n > 1 then
      head[#head + 1] = ("%d threads"):format(n)
      head[#head + 1] = "PyTorch"
    end
  end
  for _, name in ipairs(models.names) do
    local one, row = fast[name .. " 1"], { name }
    for _, n in ipairs(counts) do
      local r = fast[name .. " " .. n]
      if n > 1 and one and r then
        row[#row + 1] = ("%.2f"):format(one.ms / r.ms)
        row[#row + 1] = r.peer_ms and ("%.2f"):format(one.peer_ms / r.peer_ms) or ""
      end
    end
    rows[#rows + 1] = row
  end
  return markdown(head, rows)
end

function section.verified()
  local rows = {}
  for i, r in ipairs(bench.verified) do
    local last = #r.losses
    rows[i] = {
      r.name, last, ("%.6f"):format(r.losses[1]), ("%.6f"):format(r.peer_losses[1]), ("%.6f"):format(r.losses[last]),
      ("%.6f"):format(r.peer_losses[last]), ("%.1e"):format(r.difference),
    }
  end
  if #rows == 0 then return NOTHING end
  return markdown({
    "model", "steps", "first loss", "PyTorch", "last loss", "PyTorch", "largest relative difference",
  }, rows)
end

function section.growth()
  if #growth.table == 0 then return NOTHING end
  local plots = {}
  for i, name in ipairs { "size", "batch", "width", "memory" } do
    plots[i] = ("![%s](growth_%s.png)"):format(name, name)
  end
  return table.concat(plots, "\n") .. "\n\n" .. report.table(growth.table)
end

-- Plots -----------------------------------------------------------------------------------------------------------

local function draw(name, series, opts)
  opts.height, opts.log_x, opts.log_y = 400, true, opts.log_y ~= false
  assert(hd.image.save(("%s/%s.png"):format(args.out, name), hd.plot.lines(series, opts)))
end

-- Curves of the rows of unet_BATCH_WIDTH_SIZE in which two of the three are as given: a curve for each side and number
-- of threads.
local function grown(axis, fixed, ours, theirs)
  local series = {}
  for _, threads in ipairs(counts_of(growth)) do
    for _, side in ipairs { { "hdlua", ours }, { "PyTorch", theirs } } do
      local points = {}
      for _, r in ipairs(growth.table) do
        local sizes = { r.workload:match "^unet_(%d+)_(%d+)_(%d+)$" }
        for i = 1, 3 do sizes[i] = tonumber(sizes[i]) end
        local fits = r.threads == threads
        for i = 1, 3 do fits = fits and (i == axis or sizes[i] == fixed[i]) end
        local y = fits and side[2](r, sizes)
        if y then points[#points + 1] = { sizes[axis], y } end
      end
      table.sort(points, function(a, b) return a[1] < b[1] end)
      local curve = { name = ("%s, %d"):format(side[1], threads), x = {}, y = {} }
      for i, p in ipairs(points) do curve.x[i], curve.y[i] = p[1], p[2] end
      if #points > 0 then series[#series + 1] = curve end
    end
  end
  return series
end

local function per_picture(field)
  return function(r, sizes) return r[field] and r[field] / sizes[1] end
end

local function draw_growth()
  local BATCH, WIDTH, SIZE = 1, 2, 3
  local ms, peer_ms = per_picture "ms", per_picture "peer_ms"
  draw("growth_size", grown(SIZE, { 2, 32 }, ms, peer_ms),
    { title = "size of the pictures (batch 2, width 32)", x_label = "pixels a side", y_label = "ms a picture" })
  draw("growth_batch", grown(BATCH, { nil, 32, 32 }, ms, peer_ms),
    { title = "batch (32x32 pictures, width 32)", x_label = "pictures a step", y_label = "ms a picture" })
  draw("growth_width", grown(WIDTH, { 8, nil, 32 }, ms, peer_ms),
    { title = "width (32x32 pictures, batch 8)", x_label = "channels of the first level", y_label = "ms a picture" })
  local function memory(field) return function(r) return r[field] end end
  draw("growth_memory", grown(BATCH, { nil, 32, 32 }, memory "mib", memory "peer_mib"),
    { title = "memory (32x32 pictures, width 32)", x_label = "pictures a step", y_label = "MiB" })
end

local function draw_threads()
  local counts, series = counts_of(bench), {}
  for _, name in ipairs(models.names) do
    local curve = { name = name, x = {}, y = {} }
    for _, n in ipairs(counts) do
      local one, r = fast[name .. " 1"], fast[name .. " " .. n]
      if one and r then curve.x[#curve.x + 1], curve.y[#curve.y + 1] = n, one.ms / r.ms end
    end
    if #curve.x > 0 then series[#series + 1] = curve end
  end
  series[#series + 1] = { name = "ideal", x = counts, y = counts }
  draw("growth_threads", series,
    { title = "threads", x_label = "threads", y_label = "times faster than on one", log_y = false })
end

-- Short upright strokes at points of a logarithmic plot, with gaps between them; `aside` moves them to the right.
local function marks(name, points, aside)
  local s = { name = name, x = {}, y = {} }
  for _, p in ipairs(points) do
    for _, factor in ipairs { 0.93, 1.07, 0 / 0 } do
      s.x[#s.x + 1], s.y[#s.y + 1] = p[1] * aside, p[2] * factor
    end
  end
  return s
end

-- Operations for each byte of the operands and the result of a convolution or a product, or nil.
local function intensity(workload)
  local n, from, to, h, k, s = workload:match "^conv_(%d+)_(%d+)_(%d+)_(%d+)_(%d+)_(%d+)/"
  local size = workload:match "^sgemm_(%d+)$"
  if size then return 2 * size ^ 3 / (12 * size ^ 2) end
  if not n then return nil end
  local out = (h + 2 * (k // 2) - k) // s + 1
  return 2 * n * to * out ^ 2 * from * k ^ 2 / (4 * (n * from * h ^ 2 + to * from * k ^ 2 + n * to * out ^ 2))
end

local function draw_roofline()
  local m = bench.machine.measured[1]
  local low, high = 2, 1024
  local ridge = m.gflops_per_s / m.copy_256m
  local series = { { name = "roof", x = { low, ridge, high },
    y = { low * m.copy_256m, m.gflops_per_s, m.gflops_per_s } } }
  for _, part in ipairs {
    { "forward", "/fwd$", 0.97 }, { "backward-data", "/bwd_data$", 1 }, { "backward-weights", "/bwd_weight$", 1.03 },
    { "product", "^sgemm", 1 },
  } do
    local points = {}
    for _, r in ipairs(bench.table) do
      local x = r.threads == m.threads and r.gemm ~= "blas" and r.workload:find(part[2]) and intensity(r.workload)
      if x then points[#points + 1] = { x, r.gflops_per_s } end
    end
    if #points > 0 then series[#series + 1] = marks(part[1], points, part[3]) end
  end
  draw("roofline", series, {
    title = ("single operations on %d thread%s"):format(m.threads, m.threads > 1 and "s" or ""),
    x_label = "operations for each byte of operands and result", y_label = "GF/s",
  })
end

-- The page --------------------------------------------------------------------------------------------------------

local function fill(path)
  local text = read(path)
  for _, name in ipairs {
    "machine", "models", "operations", "convolutions", "threads", "verified", "growth",
  } do
    local open, shut = ("<!-- %s -->\n"):format(name), ("\n<!-- /%s -->"):format(name)
    local _, first = text:find(open, 1, true)
    local last = first and text:find(shut, first, true)
    assert(last, path .. " has no place for the table " .. name)
    text = text:sub(1, first) .. section[name]() .. text:sub(last)
  end
  assert(core.file_write(path, text))
end

if #growth.table > 0 then draw_growth() end
draw_threads()
if section.convolutions() ~= NOTHING then draw_roofline() end
fill(args.out .. "/PERFORMANCE.md")
