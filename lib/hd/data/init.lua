-- hd/data/init.lua: hd.data, sets of pictures, sounds and texts. Calls: hd.data.*. Called by: hd.lua.

return {
  Set = require "hd.data.set",
  augment = require "hd.data.augment".pictures,
  cifar10 = require "hd.data.cifar",
  emoji = require "hd.data.emoji",
  folder = require "hd.data.folder",
  idx = require "hd.data.idx",
  open = require "hd.data.open",
  shapes = require "hd.data.shapes",
  synth = require "hd.data.synth",
  text = require "hd.data.text".open,
  wav = require "hd.data.wav",
}
