-- hd/data/open.lua: a set by a word, as tools and examples take it on the command line. Calls: hd.data.*, hd.check.

local check = require "hd.check"

-- IMAGES,LABELS or IMAGES; named after the pictures' file: "mnist/train-images-idx3-ubyte.gz" -> "train".
local function idx(paths)
  local images, labels = paths:match "^([^,]+),(.+)$"
  local set, message = require "hd.data.idx"(images or paths, labels)
  if set then set.name = (images or paths):match "([^/]+)$":match "^[%w_]+" or "idx" end
  return set, message
end

local function emoji(_, o) return require "hd.data.emoji" { size = o.size } end
local function shapes(_, o) return require "hd.data.shapes" { size = o.size } end
local function cifar10(dir) return require "hd.data.cifar"(dir) end
local function folder(dir, o) return require "hd.data.folder"(dir, { size = o.size }) end
local function synth(_, o) return require "hd.data.synth" { rate = o.rate, length = o.length } end
local function wav(dir, o) return require "hd.data.wav"(dir, { rate = o.rate, length = o.length }) end

local SETS = { -- in the order of messages
  { form = "emoji", kind = "pictures", open = emoji },
  { form = "shapes", kind = "pictures", open = shapes },
  { form = "cifar10:DIR", kind = "pictures", open = cifar10 },
  { form = "folder:DIR", kind = "pictures", open = folder },
  { form = "idx:IMAGES,LABELS", kind = "pictures", open = idx },
  { form = "synth", kind = "sounds", open = synth },
  { form = "wav:DIR", kind = "sounds", open = wav },
}

--- Open a set by a word. Pictures: "emoji", "shapes", "cifar10:DIR", "folder:DIR", "idx:IMAGES,LABELS" (or
--- "idx:IMAGES"); sounds: "synth", "wav:DIR".
---@param word string
---@param opts? table  size: pixels of a side where the pictures have no size of their own (32); rate (8000) and length
---  (8192 frames) of sounds; kind: "pictures" or "sounds", where no others will do
---@return hd.data.Set? set  nil and a message where the word is none of these or the set cannot be read
---@return string? message
local function open(word, opts)
  check.arg("data.open", "word", word, "string")
  local o = check.options("data.open", opts, {
    { "size", "integer", 32 }, { "rate", "integer", 8000 }, { "length", "integer", 8192 },
    { "kind", { "pictures", "sounds" } },
  })
  local name, path = word:match "^([%w_]+):?(.*)$"
  local forms = {}
  for _, set in ipairs(SETS) do
    if set.kind == (o.kind or set.kind) then
      local its_name, its_path = set.form:match "^(%w+):?(.*)$"
      if name == its_name and (path ~= "") == (its_path ~= "") then return set.open(path, o) end
      forms[#forms + 1] = set.form
    end
  end
  return nil, ("data.open: the word is wrong: got '%s', expected %s or %s"):format(word,
    table.concat(forms, ", ", 1, #forms - 1), forms[#forms])
end

return open
