-- hd/schedule/init.lua: `hd.schedule`, gathered: schedules by name, predictions, weights.

local discrete = require "hd.schedule.discrete"
local continuous = require "hd.schedule.continuous"

return {
  linear = discrete.linear, scaled_linear = discrete.scaled_linear, cosine = discrete.cosine,
  sigmoid = discrete.sigmoid, zero_terminal_snr = discrete.zero_terminal_snr,
  karras = continuous.karras, edm = continuous.edm, vp = continuous.vp, ve = continuous.ve, flow = continuous.flow,
  prediction = require "hd.schedule.prediction",
  weight = require "hd.schedule.weight",
}
