-- hd/schedule/weight.lua: how much each noise level counts in the loss.
-- A weight is a function of (kind, alpha, sigma, sigma_data) that multiplies the squared error of the prediction F.
-- Papers state weights for the error of x0; an error in F is one of sigma / d in x0 (prediction.lua), hence the factor.

local check = require "hd.check"
local base = require "hd.schedule.base"
local prediction = require "hd.schedule.prediction"

local weight = {}

-- From a weight of the squared error of x0, w(snr, sigma_data), the one for F; numbers or tensors [n].
local function from_x0(w)
  return function(kind, alpha, sigma, sigma_data)
    local function one(a, s)
      local p, q = prediction.row(kind, a, s, sigma_data)
      return w((a / s) ^ 2, sigma_data or 0.5) * (s / (a * q - s * p)) ^ 2
    end
    if type(alpha) == "number" then return one(alpha, sigma) end
    local alphas, i = alpha:totable(), 0
    return (base.map(function(s)
      i = i + 1
      return one(alphas[i], s)
    end, sigma))
  end
end

--- Every level counts the same in the loss of the prediction itself.
function weight.uniform()
  return function(_, alpha)
    return type(alpha) == "number" and 1.0 or (base.map(function() return 1.0 end, alpha))
  end
end

--- The error of x0 counts by the signal-to-noise ratio; the same as predicting eps with uniform weight.
function weight.snr()
  return from_x0(function(snr) return snr end)
end

--- The signal-to-noise ratio, but at most gamma. Source: Hang et al. 2023.
---@param opts? { gamma: number }  5
function weight.min_snr(opts)
  local o = check.options("weight.min_snr", opts, { { "gamma", "number", 5 } })
  return from_x0(function(snr) return math.min(snr, o.gamma) end)
end

--- The same with a smooth bend: gamma snr / (gamma + snr). Source: Crowson et al. 2024.
---@param opts? { gamma: number }  5
function weight.soft_min_snr(opts)
  local o = check.options("weight.soft_min_snr", opts, { { "gamma", "number", 5 } })
  return from_x0(function(snr) return o.gamma * snr / (o.gamma + snr) end)
end

--- As in EDM: uniform for its own prediction. Source: Karras et al. 2022.
function weight.edm()
  return from_x0(function(snr, sigma_data) return snr + 1 / sigma_data ^ 2 end)
end

--- The error of eps counts by sigmoid(bias - log snr). Source: Kingma and Gao 2023.
---@param opts? { bias: number }  -1
function weight.sigmoid(opts)
  local o = check.options("weight.sigmoid", opts, { { "bias", "number", -1 } })
  return from_x0(function(snr) return snr / (1 + snr * math.exp(-o.bias)) end)
end

return weight
