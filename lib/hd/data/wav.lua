-- hd/data/wav.lua: a folder of sound files as a set of clips. Calls: core, hd.audio, hd.check, hd.data.set.

local core = require "hd.core"
local audio = require "hd.audio"
local check = require "hd.check"
local Set = require "hd.data.set"
local report = require "hd.data.skipped"

local ENDINGS = { wav = true, flac = true, ogg = true, aif = true, aiff = true }
local SILENCE = 1e-4 -- a peak below it, of full scale

local function is_sound(name) return ENDINGS[name:lower():match "%.(%w+)$"] end

-- { path, class, speaker } of one folder's sounds, appended to the list. Where no class is given, the name says it:
-- CLASS_SPEAKER_TAKE.
local function gather(dir, class, list)
  local names, message = core.folder_list(dir)
  if not names then return nil, message end
  for _, name in ipairs(names) do
    local path = dir .. "/" .. name
    if is_sound(name) and core.path_kind(path) == "file" then
      local first, speaker = name:match "^([^_]+)_([^_]+)_%d+%.%w+$"
      list[#list + 1] = { path = path, class = class or first, speaker = speaker }
    end
  end
  return names
end

-- The folder's own sounds, or those of its subfolders, each a class of its own.
local function find(dir)
  local list = {}
  local names, message = gather(dir, nil, list)
  if not names then return nil, message end
  if #list > 0 then return list end
  for _, name in ipairs(names) do
    if core.path_kind(dir .. "/" .. name) == "folder" then gather(dir .. "/" .. name, name, list) end
  end
  return list
end

local function set_of(names)
  local out = {}
  for _, name in ipairs(names) do out[name] = true end
  return out
end

-- Those by the speakers wanted; all where none are named.
local function by_speakers(list, o)
  local wanted, unwanted, out = o.speakers and set_of(o.speakers), set_of(o.except or {}), {}
  for _, entry in ipairs(list) do
    if (not wanted or wanted[entry.speaker]) and not unwanted[entry.speaker] then out[#out + 1] = entry end
  end
  return out
end

-- One clip [1, length], or nil and why not.
local function clip_of(path, o)
  local x, rate = audio.load(path)
  if not x then return nil, rate end
  x = x:mean(1)
  if rate ~= o.rate then x = audio.resample(x, rate, o.rate) end
  local frames, peak = x:size(1), x:abs():amax():item()
  if frames < o.least * o.rate then
    return nil, ("'%s': too short: got %.3f s, expected at least %.3f"):format(path, frames / o.rate, o.least)
  end
  if peak < SILENCE then return nil, ("'%s': silent: its peak is %.2g of full scale"):format(path, peak) end
  if o.normalise then x = x * (1 / peak) end
  if frames >= o.length then return x:narrow(1, 1, o.length):unsqueeze(1) end
  return core.op.cat({ x, core.zeros { o.length - frames } }, 1):unsqueeze(1)
end

-- Class names in sorted order and labels; nil where a sound has no class.
local function label(read)
  local seen, classes, labels = {}, {}, {}
  for _, entry in ipairs(read) do
    if not entry.class then return nil end
    if not seen[entry.class] then classes[#classes + 1] = entry.class end
    seen[entry.class] = true
  end
  table.sort(classes)
  for i, name in ipairs(classes) do seen[name] = i end
  for i, entry in ipairs(read) do labels[i] = seen[entry.class] end
  return core.tensor(labels, { dtype = "i64" }), classes
end

--- WAV, FLAC, OGG and AIFF files of a folder as clips of equal length, f32 [n, 1, length].
--- Names of the form CLASS_SPEAKER_TAKE.wav (the Free Spoken Digit Dataset's DIGIT_SPEAKER_TAKE.wav) say the class; or
--- a folder without sounds of its own holds subfolders, each a class. Channels are averaged, other rates resampled;
--- of longer sounds the beginning is kept, shorter ones are followed by silence, and each is scaled to a peak of 1.
--- Clipped sounds are taken as they are. Files that cannot be read, are silent or too short are skipped and named;
--- `set.skipped` lists them as {path =, message =}.
---@param dir string
---@param opts? table  rate (8000), length (8192 frames), speakers (names: these alone), except (names: not these),
---  least (seconds that a sound must have, 0.05), normalise (scale to a peak of 1, true)
---@return hd.data.Set? set  with `rate`; nil and a message where there is no sound that can be read
---@return string? message
local function wav(dir, opts)
  check.arg("data.wav", "dir", dir, "string")
  local o = check.options("data.wav", opts, {
    { "rate", "integer", 8000 }, { "length", "integer", 8192 }, { "speakers", "table" }, { "except", "table" },
    { "least", "number", 0.05 }, { "normalise", "boolean", true },
  })
  if o.length < 1 or o.length > 1 << 22 or o.rate < 1 or o.rate > 1000000 then
    check.fail("data.wav", "rate or length is wrong: got %d and %d, expected 1 to 1000000 and 1 to %d", o.rate,
      o.length, 1 << 22)
  end
  for _, key in ipairs { "speakers", "except" } do check.list("data.wav", key, o[key] or {}, "string") end
  local all, message = find(dir)
  if not all then return nil, "data.wav: " .. message end
  if #all == 0 then return nil, ("data.wav: no WAV, FLAC, OGG or AIFF files in '%s'"):format(dir) end
  local list = by_speakers(all, o)
  if #list == 0 then return nil, ("data.wav: none of the %d sounds in '%s' is by these speakers"):format(#all, dir) end
  local clips, read, skipped = {}, {}, {}
  for _, entry in ipairs(list) do
    local clip, why = clip_of(entry.path, o)
    if clip then
      clips[#clips + 1], read[#read + 1] = clip, entry
    else
      skipped[#skipped + 1] = { path = entry.path, message = why }
    end
  end
  report("data.wav", "sounds", dir, skipped, #list)
  if #clips == 0 then return nil, ("data.wav: none of the %d sounds in '%s' can be used"):format(#list, dir) end
  local x = core.op.cat(clips, 1):view(#clips, 1, o.length)
  local labels, classes = label(read)
  return Set(x, labels, { name = "sounds", classes = classes, skipped = skipped, rate = o.rate })
end

return wav
