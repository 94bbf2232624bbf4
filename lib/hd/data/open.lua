-- hd/data/open.lua: a set by a word, as tools and examples take it on the command line. Calls: hd.data.*, hd.check.

local check = require "hd.check"

local OPENERS = {
  emoji = function(_, size) return require "hd.data.emoji" { size = size } end,
  shapes = function(_, size) return require "hd.data.shapes" { size = size } end,
  cifar10 = function(dir) return require "hd.data.cifar"(dir) end,
  folder = function(dir, size) return require "hd.data.folder"(dir, { size = size }) end,
}

-- IMAGES,LABELS or IMAGES; named after the pictures' file: "mnist/train-images-idx3-ubyte.gz" -> "train".
function OPENERS.idx(paths)
  local images, labels = paths:match "^([^,]+),(.+)$"
  local set, message = require "hd.data.idx"(images or paths, labels)
  if set then set.name = (images or paths):match "([^/]+)$":match "^[%w_]+" or "idx" end
  return set, message
end

local NEEDS_PATH = { cifar10 = true, folder = true, idx = true }
local FORMS = "emoji, shapes, cifar10:DIR, folder:DIR or idx:IMAGES,LABELS"

--- Open a set by a word: "emoji", "shapes", "cifar10:DIR", "folder:DIR", "idx:IMAGES,LABELS" (or "idx:IMAGES").
---@param word string
---@param opts? { size: integer }  pixels of a side where the set has no size of its own (32)
---@return hd.data.Set? set  nil and a message where the word is none of these or the set cannot be read
---@return string? message
local function open(word, opts)
  check.arg("data.open", "word", word, "string")
  local o = check.options("data.open", opts, { { "size", "integer", 32 } })
  local kind, path = word:match "^([%w_]+):?(.*)$"
  local opener = OPENERS[kind]
  if not opener or (path ~= "") ~= (NEEDS_PATH[kind] or false) then
    return nil, ("data.open: the word is wrong: got '%s', expected %s"):format(word, FORMS)
  end
  return opener(path, o.size)
end

return open
