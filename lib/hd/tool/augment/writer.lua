-- hd/tool/augment/writer.lua: drawn pictures as a data set of files: OUT/CLASS/NNNNN.png, and OUT/manifest.jsonl with
-- one line for each that says where it came from. hd.data.folder reads the folder, its classes those of the model.
-- Called by: augment.lua, augment_study.lua, examples/augment.lua.

local hd = require "hd"
local core = require "hd.core"
local digest = require "hd.digest"

local writer = {}
local BATCH = 64 -- drawn at once, and redrawn whole where a file of it is missing, so that all bits are as in one run

local function read_all(path)
  local file <close>, message = io.open(path, "rb")
  if not file then return nil, message end
  return file:read "a"
end

--- Read a model that knows classes.
---@param path string  a .safetensors file of H:save, or a folder that holds one as model.safetensors
---@return table? model  { H =, models =, sha256 = }; nil and a message where it cannot be used
---@return string? message
function writer.open(path)
  if core.path_kind(path) == "folder" then path = path .. "/model.safetensors" end
  local H, models = hd.hierarchy.load(path)
  if not H then return nil, models end
  if not models.classes then
    return nil, ("'%s' knows no classes: train it with H:models { classes = } and labels"):format(path)
  end
  if #H.shape ~= 3 then return nil, ("'%s' draws no pictures: got [%s]"):format(path, table.concat(H.shape, ",")) end
  return { H = H, models = models, sha256 = digest.sha256(assert(read_all(path))) }
end

-- The numbers of the pictures of each class in a set.
local function by_class(set, classes)
  local list, labels = {}, set.labels:totable()
  for class = 1, classes do list[class] = {} end
  for i, label in ipairs(labels) do
    if list[label] then table.insert(list[label], i) end
  end
  return list
end

-- Real pictures of every class to take held levels from, or a message.
local function check_held(model, o)
  local H = model.H
  if #o.hold == 0 then return true end
  if model.models.regime == "flat" then return nil, "the model is flat: it has no levels that could be held" end
  local names = table.concat(H:level_names(), ", ")
  for _, name in ipairs(o.hold) do
    if not H.by_name[name] then return nil, ("there is no level '%s' to hold. known: %s"):format(name, names) end
  end
  if #o.hold == #H.levels then return nil, "all levels are held: nothing is left to draw" end
  local real = o.real
  if not real or not real.labels then
    return nil, "held levels are those of real pictures: a set with labels is needed"
  end
  local got, expected = table.concat(real.x:shape(), ",", 2), table.concat(H.shape, ",")
  if got ~= expected then return nil, ("the real pictures are [%s], those of the model [%s]"):format(got, expected) end
  for class, list in ipairs(by_class(real, model.models.classes)) do
    if #list == 0 then return nil, ("class %d has no real pictures to take levels from"):format(class) end
  end
  return true
end

-- The folder of a class: "3", or "03" of ten.
local function class_folder(classes, class) return ("%%0%dd"):format(#tostring(classes)):format(class) end

-- What a picture is made of: what the manifest and the file itself say. Numbers go round the classes: first the first
-- picture of each, then the second ones.
local function record_of(model, o, number, sources)
  local classes = model.models.classes
  local class, index = (number - 1) % classes + 1, (number - 1) // classes + 1
  local levels, list = {}, sources and sources[class]
  for _, level in ipairs(model.H.levels) do levels[level.name] = "drawn" end
  for _, name in ipairs(o.hold) do levels[name] = "real" end
  return {
    file = ("%s/%05d.png"):format(class_folder(classes, class), index), class = class, index = index, number = number,
    model = model.sha256, seed = o.seed, guidance = o.guidance or 1, steps = o.steps or "default",
    regime = model.models.regime, levels = levels, source = list and list[(index - 1) % #list + 1] or nil,
  }
end

-- Files that the manifest lists, as { file = true }, where each line is one of those expected or of a later number; nil
-- where it lists others. A last line that was torn is taken away.
local function read_manifest(path, expected)
  local listed, known, text = {}, {}, read_all(path) or ""
  for _, line in ipairs(expected) do known[line] = true end
  for line in text:gmatch "([^\n]*)\n" do
    local ok, record = pcall(core.json_decode, line)
    local number = ok and type(record) == "table" and math.tointeger(record.number) or 0
    if not known[line] and number <= #expected then return nil end
    listed[record.file] = true
  end
  local whole = text:match "^.*\n" or ""
  if whole ~= text then assert(core.file_write(path, whole)) end
  return listed
end

-- Real levels of these pictures' sources, { name = z }.
local function held_levels(model, o, records)
  local sources, hold = {}, {}
  if #o.hold == 0 then return hold end
  for i, r in ipairs(records) do sources[i] = r.source end
  local z = model.H:split(o.real:subset(sources).x:to "f32" * (1 / 127.5) - 1)
  for _, name in ipairs(o.hold) do hold[name] = z[name] end
  return hold
end

-- Draw a batch, write the files that are missing and the lines that are not listed.
local function write_batch(model, o, batch, missing, listed, manifest)
  local n, labels, lines = #batch.records, {}, {}
  for i, r in ipairs(batch.records) do labels[i] = r.class end
  local x = model.H:sample(model.models, n, { seed = o.seed, first = batch.records[1].number,
    labels = hd.tensor(labels, { dtype = "i64" }), guidance = o.guidance, steps = o.steps,
    hold = held_levels(model, o, batch.records), batch = n }):clamp(-1, 1)
  for i, r in ipairs(batch.records) do
    local saved, message = true, nil
    if missing[r.file] then
      saved, message = hd.image.save(o.out .. "/" .. r.file, x[i], { comment = batch.lines[i] })
    end
    if not saved then return nil, message end
    if not listed[r.file] then lines[#lines + 1] = batch.lines[i] .. "\n" end
  end
  local file <close>, message = io.open(manifest, "ab")
  if not file then return nil, message end
  return file:write(table.concat(lines))
end

-- Folders of all classes.
local function make_folders(out, classes)
  for class = 1, classes do
    local made, message = core.folder_make(out .. "/" .. class_folder(classes, class))
    if not made then return nil, message end
  end
  return true
end

-- Batches of records and their lines, all drawn by the same calls however many are there already.
local function batches_of(records, lines)
  local list = {}
  for first = 1, #records, BATCH do
    local last = math.min(#records, first + BATCH - 1)
    list[#list + 1] = { last = last, records = table.move(records, first, last, 1, {}),
      lines = table.move(lines, first, last, 1, {}) }
  end
  return list
end

--- Write pictures of every class. What the manifest lists already is kept; a call that was interrupted goes on.
---@param model table  of writer.open
---@param o table  out; per_class; seed; guidance, steps: of H:sample; hold: names of levels that are taken from real
---  pictures of the same class; real: the set of these; on_batch: function (written, total)
---@return integer? drawn  how many were drawn now; nil and a message where that cannot be done
---@return string? message
function writer.write(model, o)
  local classes, manifest = model.models.classes, o.out .. "/manifest.jsonl"
  local fine, message = check_held(model, o)
  if fine then fine, message = make_folders(o.out, classes) end
  if not fine then return nil, message end
  local sources = #o.hold > 0 and by_class(o.real, classes) or nil
  local records, lines, drawn = {}, {}, 0
  for number = 1, o.per_class * classes do
    records[number] = record_of(model, o, number, sources)
    lines[number] = core.json_encode(records[number])
  end
  local listed = read_manifest(manifest, lines)
  if not listed then
    return nil, ("'%s' lists pictures of another model or of other settings: use another folder"):format(manifest)
  end
  for _, batch in ipairs(batches_of(records, lines)) do
    local _ <close> = hd.scope()
    local missing, count = {}, 0
    for _, r in ipairs(batch.records) do
      if not (listed[r.file] and core.path_kind(o.out .. "/" .. r.file) == "file") then
        missing[r.file], count = true, count + 1
      end
    end
    if count > 0 then fine, message = write_batch(model, o, batch, missing, listed, manifest) end
    if not fine then return nil, message end
    drawn = drawn + count
    if o.on_batch then o.on_batch(batch.last, #records) end
  end
  return drawn
end

return writer
