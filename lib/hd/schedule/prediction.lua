-- hd/schedule/prediction.lua: what a network predicts (eps, x0, v, flow, edm), and one routine between all of them.
-- With x = alpha x0 + sigma eps, every prediction is F = p x0 + q eps, so (x, F) and (x0, eps) determine each other:
--   x0 = (q x - sigma F) / d,   eps = (alpha F - p x) / d,   d = alpha q - sigma p.
-- alpha and sigma are numbers, or tensors [n], one per sample.

local check = require "hd.check"
local core = require "hd.core"

local prediction = {}

--- The kinds of prediction.
prediction.kinds = { "eps", "x0", "v", "flow", "edm" }

local function root(x) return type(x) == "number" and math.sqrt(x) or x:sqrt() end

-- kind -> p, q; all finite for every alpha and sigma.
-- v: Salimans and Ho 2022. edm: c_skip, c_out of Karras et al. 2022 (table 1), written for any alpha.
local ROWS = {
  eps = function() return 0, 1 end,
  x0 = function() return 1, 0 end,
  v = function(alpha, sigma) return -sigma, alpha end,
  flow = function() return -1, 1 end,
  edm = function(alpha, sigma, sigma_data)
    local norm = root(sigma * sigma + alpha * alpha * sigma_data ^ 2)
    return sigma / (norm * sigma_data), -(alpha * sigma_data) / norm
  end,
}

local function check_kind(kind) check.one_of("prediction", "kind", kind, prediction.kinds) end

--- p and q of F = p x0 + q eps.
---@param kind string
---@param alpha number|hd.Tensor
---@param sigma number|hd.Tensor
---@param sigma_data? number  standard deviation of the data, for "edm"; default 0.5
---@return number|hd.Tensor p, number|hd.Tensor q
function prediction.row(kind, alpha, sigma, sigma_data)
  check_kind(kind)
  check.arg("prediction", "alpha", alpha, "number|tensor")
  check.arg("prediction", "sigma", sigma, "number|tensor")
  return ROWS[kind](alpha, sigma, check.arg("prediction", "sigma_data", sigma_data or 0.5, "number"))
end

--- A number as it is; [n] as [n, 1, ...] with the rank of x.
---@param value number|hd.Tensor
---@param x hd.Tensor
---@return number|hd.Tensor
function prediction.per_sample(value, x)
  if type(value) == "number" then return value end
  check.arg("prediction", "value", value, "number|tensor")
  if value:dim() == check.arg("prediction", "x", x, "tensor"):dim() then return value end
  local shape = { value:size(1) }
  for i = 2, x:dim() do shape[i] = 1 end
  return value:view(shape)
end

--- What the network should give for data x0 and noise eps.
---@param kind string
---@param x0 hd.Tensor
---@param eps hd.Tensor
---@param alpha number|hd.Tensor
---@param sigma number|hd.Tensor
---@param sigma_data? number
---@return hd.Tensor F
function prediction.target(kind, x0, eps, alpha, sigma, sigma_data)
  check_kind(kind)
  check.arg("prediction", "x0", x0, "tensor")
  check.arg("prediction", "eps", eps, "tensor")
  if kind == "eps" then return eps elseif kind == "x0" then return x0 end
  local p, q = prediction.row(kind, prediction.per_sample(alpha, x0), prediction.per_sample(sigma, x0), sigma_data)
  return x0 * p + eps * q
end

--- x0 and eps from the noisy x and the network's F.
---@param kind string
---@param F hd.Tensor
---@param x hd.Tensor   alpha x0 + sigma eps
---@param alpha number|hd.Tensor
---@param sigma number|hd.Tensor
---@param sigma_data? number
---@return hd.Tensor x0, hd.Tensor eps
function prediction.solve(kind, F, x, alpha, sigma, sigma_data)
  check.arg("prediction", "F", F, "tensor")
  check.arg("prediction", "x", x, "tensor")
  alpha, sigma = prediction.per_sample(alpha, x), prediction.per_sample(sigma, x)
  local p, q = prediction.row(kind, alpha, sigma, sigma_data)
  local d = alpha * q - sigma * p
  return x * (q / d) - F * (sigma / d), F * (alpha / d) - x * (p / d)
end

--- One kind of prediction as another.
---@param from string
---@param to string
---@param F hd.Tensor
---@param x hd.Tensor
---@param alpha number|hd.Tensor
---@param sigma number|hd.Tensor
---@param sigma_data? number
---@return hd.Tensor
function prediction.convert(from, to, F, x, alpha, sigma, sigma_data)
  check_kind(to)
  local x0, eps = prediction.solve(from, F, x, alpha, sigma, sigma_data)
  return prediction.target(to, x0, eps, alpha, sigma, sigma_data)
end

-- x0 alone: one pass less than solve
local function to_x0(kind, F, x, alpha, sigma, sigma_data)
  local p, q = prediction.row(kind, alpha, sigma, sigma_data)
  local d = alpha * q - sigma * p
  return (x * (q / d)):sub_(F * (sigma / d))
end

--- The factor on x before the network sees it: unit variance where the schedule or the prediction asks for it.
---@param kind string
---@param scale string   of the schedule: "vp", "ve" or "flow"
---@param alpha number|hd.Tensor
---@param sigma number|hd.Tensor
---@param sigma_data? number
---@return number|hd.Tensor
function prediction.input_scale(kind, scale, alpha, sigma, sigma_data)
  check_kind(kind)
  if kind ~= "edm" and scale ~= "ve" then return 1 end
  check.arg("prediction", "alpha", alpha, "number|tensor")
  check.arg("prediction", "sigma", sigma, "number|tensor")
  sigma_data = check.arg("prediction", "sigma_data", sigma_data or 0.5, "number")
  return 1 / root(sigma * sigma + alpha * alpha * sigma_data ^ 2)
end

--- The function that samplers call, from a network: denoise(x, sigma, cond) -> x0, with x = x0 + sigma eps.
---@param net fun(x: hd.Tensor, t: number, cond: any): hd.Tensor
---@param opts table  schedule, predict (a kind), sigma_data (0.5), clip: limit |x0| to it (none unless given)
---@return fun(x: hd.Tensor, sigma: number, cond: any): hd.Tensor
function prediction.denoiser(net, opts)
  local o = check.options("denoiser", opts, {
    { "schedule", "table", required = true }, { "predict", prediction.kinds, "eps" },
    { "sigma_data", "number", 0.5 }, { "clip", "number" },
  })
  return function(x, level, cond)
    local _ <close> = core.no_grad()
    local alpha, sigma = o.schedule:scales_of(level)
    local time = o.schedule:network_time(o.schedule:time_of(level))
    local scaled = alpha == 1 and x or x * alpha
    local c_in = prediction.input_scale(o.predict, o.schedule.scale, alpha, sigma, o.sigma_data)
    local F = net(c_in == 1 and scaled or scaled * c_in, time, cond)
    local x0 = to_x0(o.predict, F, scaled, alpha, sigma, o.sigma_data)
    return o.clip and x0:clamp_(-o.clip, o.clip) or x0
  end
end

return prediction
