-- hd/nn/functional.lua: `hd.nn.functional`, usually named F: layers as functions, without weights of their own.
-- Tensors and required sizes are positional in PyTorch's order, all else is in the last table. The ops of the core
-- stand here under their names; below are those that are composed of them.

local check = require "hd.check"
local core = require "hd.core"

local F = {}

for _, name in ipairs {
  "conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d", "linear", "embedding", "group_norm", "group_norm_conv1d",
  "group_norm_conv2d", "layer_norm", "rms_norm", "avg_pool1d", "avg_pool2d", "max_pool1d", "max_pool2d", "interpolate",
  "scaled_dot_product_attention", "scaled_dot_product_attention_qkvpacked", "pad", "relu", "leaky_relu", "silu", "gelu",
  "sigmoid", "tanh", "softplus", "softmax", "log_softmax",
} do
  F[name] = core.op[name]
end

-- Losses ----------------------------------------------------------------------------------------------------------

local REDUCTION = { "reduction", { "mean", "sum", "none" }, "mean" }

local function reduced(x, reduction)
  if reduction == "none" then return x end
  return reduction == "sum" and x:sum() or x:mean()
end

local function check_pair(where, input, target)
  check.arg(where, "input", input, "tensor")
  check.arg(where, "target", target, "tensor")
  local a, b = table.concat(input:shape(), ","), table.concat(target:shape(), ",")
  if a ~= b then check.fail(where, "shapes differ: got input [%s] and target [%s]", a, b) end
end

--- Mean squared error.
---@param input hd.Tensor
---@param target hd.Tensor   the same shape
---@param opts? { reduction: string }  "mean" (default), "sum" or "none"
---@return hd.Tensor
function F.mse_loss(input, target, opts)
  if opts == nil then return core.op.mse_loss(input, target) end
  local o = check.options("mse_loss", opts, { REDUCTION })
  check_pair("mse_loss", input, target)
  return reduced((input - target):square(), o.reduction)
end

--- Mean absolute error.
---@param input hd.Tensor
---@param target hd.Tensor   the same shape
---@param opts? { reduction: string }
---@return hd.Tensor
function F.l1_loss(input, target, opts)
  local o = check.options("l1_loss", opts, { REDUCTION })
  check_pair("l1_loss", input, target)
  return reduced((input - target):abs(), o.reduction)
end

--- Quadratic up to delta, linear beyond: delta (|d| - delta / 2).
---@param input hd.Tensor
---@param target hd.Tensor   the same shape
---@param opts? { reduction: string, delta: number }  delta 1
---@return hd.Tensor
function F.huber_loss(input, target, opts)
  local o = check.options("huber_loss", opts, { REDUCTION, { "delta", "number", 1 } })
  check_pair("huber_loss", input, target)
  local distance = (input - target):abs()
  local inner = distance:clamp(nil, o.delta)
  return reduced(inner * (distance - inner * 0.5), o.reduction)
end

-- [n, c, ...] -> [rows, c], one row per prediction
local function class_rows(x)
  if x:dim() == 2 then return x end
  local c = x:size(2)
  return x:flatten(3, -1):transpose(2, 3):reshape(-1, c)
end

--- Cross entropy of logits against 1-based classes.
---@param input hd.Tensor   [n, c] or [n, c, ...] logits
---@param target hd.Tensor  [n] or [n, ...] integers, 1 to c
---@param opts? { reduction: string, label_smoothing: number, weight: hd.Tensor }  weight [n] or [n, ...]: of each
---                                                     prediction; "mean" divides by the sum of the weights
---@return hd.Tensor
function F.cross_entropy(input, target, opts)
  local o = check.options("cross_entropy", opts,
    { REDUCTION, { "label_smoothing", "number", 0 }, { "weight", "tensor" } })
  check.arg("cross_entropy", "input", input, "tensor")
  check.arg("cross_entropy", "target", target, "tensor")
  if target:dtype():find "^f" then
    check.fail("cross_entropy", "target is %s, expected whole numbers", target:dtype())
  end
  local logp = core.op.log_softmax(class_rows(input), 2)
  if target:numel() ~= logp:size(1) then
    check.fail("cross_entropy", "shapes differ: got input [%s] and target [%s]", table.concat(input:shape(), ","),
      table.concat(target:shape(), ","))
  end
  local low, high = target:amin():item(), target:amax():item()
  if low < 1 or high > logp:size(2) then
    check.fail("cross_entropy", "a class is out of range: got %d, expected 1 to %d\n  hint: classes count from 1",
      low < 1 and low or high, logp:size(2))
  end
  local loss = -logp:gather(2, target:reshape(-1, 1)):reshape(-1)
  local smooth = o.label_smoothing
  if smooth > 0 then loss = loss * (1 - smooth) - logp:mean(2) * smooth end
  if not o.weight then return o.reduction == "none" and loss:reshape(target:shape()) or reduced(loss, o.reduction) end
  local weight = o.weight:reshape(-1)
  loss = loss * weight
  if o.reduction == "mean" then return loss:sum() / weight:sum() end
  return o.reduction == "none" and loss:reshape(target:shape()) or loss:sum()
end

-- Norms -----------------------------------------------------------------------------------------------------------

-- [c] -> [1, c, 1, ...] with the rank of x
local function channels_of(v, x)
  local shape = { 1, v:size(1) }
  for i = 3, x:dim() do shape[i] = 1 end
  return v:view(shape)
end

-- Batch statistics over all dimensions but the channels; the running ones move towards them.
local function batch_statistics(x, running_mean, running_var, momentum)
  local dims = { 1 }
  for i = 3, x:dim() do dims[#dims + 1] = i end
  local mean, var = x:mean(dims), x:var(dims, { unbiased = false })
  if running_mean then
    local _ <close> = core.no_grad()
    local n = x:numel() / x:size(2)
    core.lerp_(running_mean, mean:detach(), momentum)
    core.lerp_(running_var, var:detach() * (n / math.max(1, n - 1)), momentum)
  end
  return mean, var
end

--- Zero mean and unit variance per channel: over the batch while training, by the running statistics otherwise.
---@param x hd.Tensor               [n, c, ...]
---@param running_mean? hd.Tensor   [c], changed while training
---@param running_var? hd.Tensor    [c]
---@param weight? hd.Tensor         [c]
---@param bias? hd.Tensor           [c]
---@param opts? { training: boolean, momentum: number, eps: number }  false, 0.1, 1e-5
---@return hd.Tensor
function F.batch_norm(x, running_mean, running_var, weight, bias, opts)
  local o = check.options("batch_norm", opts,
    { { "training", "boolean", false }, { "momentum", "number", 0.1 }, { "eps", "number", 1e-5 } })
  check.arg("batch_norm", "x", x, "tensor")
  check.arg("batch_norm", "running_mean", running_mean, "tensor|nil")
  check.arg("batch_norm", "running_var", running_var, "tensor|nil")
  check.arg("batch_norm", "weight", weight, "tensor|nil")
  check.arg("batch_norm", "bias", bias, "tensor|nil")
  if x:dim() < 2 or (running_mean == nil) ~= (running_var == nil) then
    check.fail("batch_norm", "got x %s, running_mean %s and running_var %s, expected x [n,c,...] and both or none",
      check.show(x), check.show(running_mean), check.show(running_var))
  end
  local mean, var = running_mean, running_var
  if o.training or not running_mean then mean, var = batch_statistics(x, running_mean, running_var, o.momentum) end
  local scale = (var + o.eps):rsqrt()
  if weight then scale = scale * weight end
  local y = (x - channels_of(mean, x)) * channels_of(scale, x)
  return bias and y + channels_of(bias, x) or y
end

--- Zero mean and unit variance of each channel of each sample.
---@param x hd.Tensor        [n, c, ...]
---@param weight? hd.Tensor  [c]
---@param bias? hd.Tensor    [c]
---@param opts? { eps: number }
---@return hd.Tensor
function F.instance_norm(x, weight, bias, opts)
  return core.op.group_norm(x, check.arg("instance_norm", "x", x, "tensor"):size(2), weight, bias, opts)
end

-- Others ----------------------------------------------------------------------------------------------------------

--- While training, set each value to 0 with probability p and scale the others by 1 / (1 - p).
---@param x hd.Tensor
---@param opts? { p: number, training: boolean, rng: hd.Generator }  0.5, true
---@return hd.Tensor
function F.dropout(x, opts)
  local o = check.options("dropout", opts,
    { { "p", "number", 0.5 }, { "training", "boolean", true }, { "rng", "any" } })
  check.arg("dropout", "x", x, "tensor")
  if o.p < 0 or o.p > 1 then check.fail("dropout", "p is wrong: got %g, expected 0 to 1", o.p) end
  if not o.training or o.p == 0 then return x end
  if o.p == 1 then return x * 0 end
  local keep = core.rand_like(x, { rng = o.rng }):ge(o.p):to(x:dtype())
  return x * (keep / (1 - o.p))
end

-- The factor of pixel_shuffle and its inverse.
local function check_factor(where, r)
  r = check.arg(where, "r", r, "integer")
  return r >= 1 and r <= 32768 and r or check.fail(where, "r is wrong: got %d, expected 1 to 32768", r)
end

--- Channels to places: [n, c r^2, h, w] -> [n, c, h r, w r].
---@param x hd.Tensor
---@param r integer
---@return hd.Tensor
function F.pixel_shuffle(x, r)
  local n, c, h, w = table.unpack(check.arg("pixel_shuffle", "x", x, "tensor"):shape())
  r = check_factor("pixel_shuffle", r)
  if not w or c % (r * r) ~= 0 then
    check.fail("pixel_shuffle", "channels must be a multiple of %d: got [%s]", r * r, table.concat(x:shape(), ","))
  end
  return x:reshape(n, c // (r * r), r, r, h, w):permute(1, 2, 5, 3, 6, 4):reshape(n, c // (r * r), h * r, w * r)
end

--- Places to channels: [n, c, h r, w r] -> [n, c r^2, h, w].
---@param x hd.Tensor
---@param r integer
---@return hd.Tensor
function F.pixel_unshuffle(x, r)
  local n, c, h, w = table.unpack(check.arg("pixel_unshuffle", "x", x, "tensor"):shape())
  r = check_factor("pixel_unshuffle", r)
  if not w or h % r ~= 0 or w % r ~= 0 then
    check.fail("pixel_unshuffle", "height and width must be multiples of %d: got [%s]", r, table.concat(x:shape(), ","))
  end
  return x:reshape(n, c, h // r, r, w // r, r):permute(1, 2, 4, 6, 3, 5):reshape(n, c * r * r, h // r, w // r)
end

return F
