-- hd/nn/init.lua: `hd.nn`, layers and models, gathered.

local nn = { functional = require "hd.nn.functional" }

-- Each file gives a table of its classes; these are the public ones.
local PUBLIC = {
  { "module", "Module", "Parameter" }, { "linear", "Linear" },
  { "conv", "Conv1d", "Conv2d", "ConvTranspose1d", "ConvTranspose2d" },
  { "norm", "GroupNorm", "LayerNorm", "RMSNorm" },
  { "activation", "ReLU", "SiLU", "GELU", "Sigmoid", "Tanh", "Identity", "Dropout" },
  { "sequential", "Sequential", "ModuleList" },
  { "embedding", "Embedding", "Timesteps", "GaussianFourierProjection", "TimestepEmbedding" },
  { "attention", "Attention", "AttentionBlock" }, { "resblock", "ResBlock" }, { "unet", "UNet" },
  { "transformer", "Transformer", "TransformerBlock" },
}

for _, entry in ipairs(PUBLIC) do
  local part = require("hd.nn." .. entry[1])
  for i = 2, #entry do nn[entry[i]] = part[entry[i]] end
end

return nn
