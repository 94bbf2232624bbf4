-- hd/nn/embedding.lua: tables of vectors, and what a network is told of its time.

local class = require "hd.class"
local check = require "hd.check"
local core = require "hd.core"
local weights = require "hd.nn.weights"
local Linear = require "hd.nn.linear".Linear
local Module = require "hd.nn.module".Module

---@class hd.nn.Embedding : hd.nn.Module
---@field weight hd.Tensor  [num_embeddings, embedding_dim]
local Embedding = class("Embedding", Module)

--- A table of vectors, looked up by 1-based ids; begins normal with variance 1, as in PyTorch.
---@param num_embeddings integer
---@param embedding_dim integer
function Embedding:init(num_embeddings, embedding_dim)
  self.num_embeddings = check.arg("Embedding", "num_embeddings", num_embeddings, "integer")
  self.embedding_dim = check.arg("Embedding", "embedding_dim", embedding_dim, "integer")
  self.weight = weights.normal({ self.num_embeddings, self.embedding_dim }, 1)
end

---@param ids hd.Tensor  [...] integers, 1 to num_embeddings
---@return hd.Tensor     [..., embedding_dim]
function Embedding:forward(ids) return core.op.embedding(ids, self.weight) end

function Embedding:extra() return ("%d, %d"):format(self.num_embeddings, self.embedding_dim) end

local MOST = 65536 -- channels that say a time

---@class hd.nn.Timesteps : hd.nn.Module
local Timesteps = class("Timesteps", Module)

--- Sines and cosines of t at frequencies from 1 down to 1/10000, in geometric steps, as in diffusers.
---@param channels integer  even
---@param opts? { flip_sin_to_cos: boolean, freq_shift: number }
function Timesteps:init(channels, opts)
  self.channels = check.arg("Timesteps", "channels", channels, "integer")
  if channels < 2 or channels > MOST or channels % 2 ~= 0 then
    check.fail("Timesteps", "channels is wrong: got %d, expected an even number, 2 to %d", channels, MOST)
  end
  local o = check.options("Timesteps", opts,
    { { "flip_sin_to_cos", "boolean", false }, { "freq_shift", "number", 0 } })
  self.flip_sin_to_cos = o.flip_sin_to_cos
  local half, frequencies = channels // 2, {}
  for i = 1, half do
    frequencies[i] = math.exp(-math.log(10000) * (i - 1) / math.max(half - o.freq_shift, 1))
  end
  self:register_buffer("frequencies", core.tensor({ frequencies }), { persistent = false })
end

---@param t hd.Tensor  [n] floats
---@return hd.Tensor   [n, channels]: sines, then cosines (the other way round where flip_sin_to_cos)
function Timesteps:forward(t)
  local angles = t:view(-1, 1) * self.frequencies
  local sin, cos = angles:sin(), angles:cos()
  return core.op.cat(self.flip_sin_to_cos and { cos, sin } or { sin, cos }, 2)
end

function Timesteps:extra() return ("%d"):format(self.channels) end

---@class hd.nn.GaussianFourierProjection : hd.nn.Module
---@field weight hd.Tensor  [channels / 2], fixed
local GaussianFourierProjection = class("GaussianFourierProjection", Module)

--- Sines and cosines of t at random frequencies; the better choice where t is ln(sigma) / 4.
--- Source: Tancik et al. 2020.
---@param channels integer     even
---@param opts? { scale: number }  standard deviation of the frequencies, default 16
function GaussianFourierProjection:init(channels, opts)
  local o = check.options("GaussianFourierProjection", opts, { { "scale", "number", 16 } })
  self.channels = check.arg("GaussianFourierProjection", "channels", channels, "integer")
  self:register_buffer("weight", core.empty({ channels // 2 }):normal_(0, o.scale))
end

---@param t hd.Tensor  [n] floats
---@return hd.Tensor   [n, channels]
function GaussianFourierProjection:forward(t)
  local angles = t:view(-1, 1) * (self.weight:view(1, -1) * (2 * math.pi))
  return core.op.cat({ angles:sin(), angles:cos() }, 2)
end

---@class hd.nn.TimestepEmbedding : hd.nn.Module
local TimestepEmbedding = class("TimestepEmbedding", Module)

--- Two linear layers with SiLU between them, from the projected time to the embedding.
---@param in_channels integer
---@param time_embed_dim integer
---@param opts? { out_dim: integer }  default time_embed_dim
function TimestepEmbedding:init(in_channels, time_embed_dim, opts)
  local o = check.options("TimestepEmbedding", opts, { { "out_dim", "integer", time_embed_dim } })
  self.linear_1 = Linear(in_channels, time_embed_dim)
  self.linear_2 = Linear(time_embed_dim, o.out_dim)
end

---@param x hd.Tensor  [n, in_channels]
---@return hd.Tensor   [n, out_dim]
function TimestepEmbedding:forward(x) return self.linear_2(core.op.silu(self.linear_1(x))) end

-- The times of a model -------------------------------------------------------------------------------------------
-- A network of a hierarchy is told several times: its own and those of its context. Each has an embedding of its own;
-- they are summed. The first keeps the name that diffusers gives it.

--- The options that models pass on to add_times.
local TIME_OPTIONS = {
  { "time_embedding_type", { "positional", "fourier" }, "positional" }, { "time_dim", "integer" },
  { "time_embed_dim", "integer" }, { "time_inputs", "integer", 1 }, { "time_scale", "number", 1 },
  { "flip_sin_to_cos", "boolean", false }, { "freq_shift", "number", 0 },
}

--- Give a model the layers that read its times.
---@param model hd.nn.Module
---@param o table           TIME_OPTIONS, checked
---@param out_dim? integer  width of the result, default o.time_embed_dim
local function add_times(model, o, out_dim)
  if o.time_embedding_type == "fourier" then
    model.time_proj = GaussianFourierProjection(o.time_dim)
  else
    model.time_proj = Timesteps(o.time_dim, { flip_sin_to_cos = o.flip_sin_to_cos, freq_shift = o.freq_shift })
  end
  model.time_inputs, model.time_scale = o.time_inputs, o.time_scale
  model.time_embedding = TimestepEmbedding(o.time_dim, o.time_embed_dim, { out_dim = out_dim })
  local extra = {}
  for i = 1, o.time_inputs - 1 do
    extra[i] = TimestepEmbedding(o.time_dim, o.time_embed_dim, { out_dim = out_dim })
  end
  if #extra > 0 then model.extra_time_embeddings = extra end
end

-- One time as [n] numbers of type dtype: a number, or a tensor of 1 or n elements of any type.
local function time_vector(t, n, dtype)
  if type(t) == "number" then return core.full({ n }, t, { dtype = dtype }) end
  if t:dtype() ~= dtype then t = t:to(dtype) end
  return t:numel() == n and t:reshape(n) or t:reshape(1):expand(n)
end

--- The embedding of a model's times.
---@param model hd.nn.Module  after add_times
---@param t any       a number, [n], [1], or a list of these where the model has several time inputs
---@param n integer   batch size
---@return hd.Tensor  [n, out_dim]
local function embed_times(model, t, n)
  local where = getmetatable(model).name
  local list = type(t) == "table" and t or { t }
  if #list ~= model.time_inputs then
    check.fail(where, "number of times is wrong: got %d, expected %d", #list, model.time_inputs)
  end
  local dtype, sum = model.time_embedding.linear_1.weight:dtype(), nil
  for i, time in ipairs(list) do
    if type(time) ~= "number" then check.arg(where, "time", time, "tensor") end
    local embedding = i == 1 and model.time_embedding or model.extra_time_embeddings[i - 1]
    local vector = time_vector(time, n, dtype)
    if model.time_scale ~= 1 then vector = vector * model.time_scale end
    local e = embedding(model.time_proj(vector))
    sum = sum and sum + e or e
  end
  return sum
end

return {
  Embedding = Embedding, Timesteps = Timesteps, GaussianFourierProjection = GaussianFourierProjection,
  TimestepEmbedding = TimestepEmbedding, TIME_OPTIONS = TIME_OPTIONS, add_times = add_times, embed_times = embed_times,
}
