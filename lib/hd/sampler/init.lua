-- hd/sampler/init.lua: `hd.sampler`, gathered. All but `discrete` are functions of (denoise, x, sigmas, opts).

local ddim = require "hd.sampler.ddim"

return {
  heun = require "hd.sampler.heun",
  euler = require "hd.sampler.euler",
  ddim = ddim.ddim,
  ancestral = ddim.ancestral,
  dpmpp_2m = require "hd.sampler.dpmpp_2m",
  discrete = require "hd.sampler.discrete",
}
