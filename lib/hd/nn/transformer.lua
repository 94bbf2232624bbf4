-- hd/nn/transformer.lua: a transformer over tokens that is told its time: denoiser of text, all positions at once.

local class = require "hd.class"
local check = require "hd.check"
local core = require "hd.core"
local weights = require "hd.nn.weights"
local embedding = require "hd.nn.embedding"
local activation = require "hd.nn.activation"
local Conv1d = require "hd.nn.conv".Conv1d
local Linear = require "hd.nn.linear".Linear
local LayerNorm = require "hd.nn.norm".LayerNorm
local Attention = require "hd.nn.attention".Attention
local Module = require "hd.nn.module".Module

---@class hd.nn.TransformerBlock : hd.nn.Module
local TransformerBlock = class("TransformerBlock", Module)

--- x + attention(LayerNorm(x)), then x + MLP(LayerNorm(x)) with GELU. Source: Vaswani et al. 2017, norms first.
--- With conv_kernel, before that, x + a convolution of each channel over so many positions: what stands beside what is
--- there from the start, where attention would have to learn it first (masked characters, 200 steps: 3.6 bits each,
--- without it 4.9). Source: Chu et al. 2021 (conditional positional encoding).
---@param dim integer
---@param opts? { heads: integer, mlp_ratio: number, dropout: number, fuse_qkv: boolean, conv_kernel: integer }
function TransformerBlock:init(dim, opts)
  local o = check.options("TransformerBlock", opts, {
    { "heads", "integer", 4 }, { "mlp_ratio", "number", 4 }, { "dropout", "number", 0 },
    { "fuse_qkv", "boolean", true }, { "conv_kernel", "integer" },
  })
  if o.conv_kernel then
    if o.conv_kernel < 1 or o.conv_kernel % 2 == 0 then
      check.fail("TransformerBlock", "conv_kernel is wrong: got %d, expected an odd number", o.conv_kernel)
    end
    self.conv = Conv1d(dim, dim, o.conv_kernel, { padding = o.conv_kernel // 2, groups = dim })
  end
  local hidden = math.floor(check.arg("TransformerBlock", "dim", dim, "integer") * o.mlp_ratio)
  self.norm1 = LayerNorm(dim)
  self.attn = Attention(dim, { heads = o.heads, fuse_qkv = o.fuse_qkv })
  self.norm2 = LayerNorm(dim)
  self.fc1, self.fc2 = Linear(dim, hidden), Linear(hidden, dim)
  if o.dropout > 0 then self.dropout = activation.Dropout(o.dropout) end
end

-- The result of a linear layer belongs to nobody else: add in place.
local function residual(self, x, branch)
  if self.dropout then branch = self.dropout(branch) end
  return branch:add_(x)
end

---@param x hd.Tensor  [n, t, dim]
---@return hd.Tensor   [n, t, dim]
function TransformerBlock:forward(x)
  if self.conv then x = x + self.conv(x:transpose(2, 3)):transpose(2, 3) end
  x = residual(self, x, self.attn(self.norm1(x)))
  return residual(self, x, self.fc2(core.op.gelu(self.fc1(self.norm2(x)))))
end

---@class hd.nn.Transformer : hd.nn.Module
local Transformer = class("Transformer", Module)

local OPTIONS = {
  { "vocab_size", "integer", required = true }, { "max_length", "integer", required = true },
  { "dim", "integer", 256 }, { "depth", "integer", 4 }, { "heads", "integer", 4 }, { "mlp_ratio", "number", 4 },
  { "dropout", "number", 0 }, { "fuse_qkv", "boolean", true }, { "out_size", "integer" },
  { "gradient_checkpointing", "boolean", false }, { "num_class_embeds", "integer" }, { "conv_kernel", "integer" },
}
for _, entry in ipairs(embedding.TIME_OPTIONS) do OPTIONS[#OPTIONS + 1] = entry end

--- A transformer of `depth` blocks from tokens and their time to logits.
---
---     local net = nn.Transformer { vocab_size = 256, max_length = 128, dim = 256, depth = 4, heads = 4 }
---     local logits = net(tokens, t)
---
--- Options: vocab_size, max_length, dim, depth, heads, mlp_ratio, dropout, fuse_qkv, out_size (logits per position,
--- default vocab_size), conv_kernel (of a convolution before each attention; none), gradient_checkpointing (blocks are
--- computed again in backward: less memory for more time), num_class_embeds, and the time's: time_dim (64),
--- time_embed_dim (dim), time_inputs, time_scale, time_embedding_type, flip_sin_to_cos, freq_shift.
---@param opts table
function Transformer:init(opts)
  local o = check.options("Transformer", opts, OPTIONS)
  o.time_dim, o.time_embed_dim = o.time_dim or 64, o.time_embed_dim or o.dim
  self.vocab_size, self.max_length = o.vocab_size, o.max_length
  self.token_embedding = embedding.Embedding(o.vocab_size, o.dim)
  self.position_embedding = weights.normal({ o.max_length, o.dim }, 0.02)
  embedding.add_times(self, o, o.dim)
  if o.num_class_embeds then self.class_embedding = embedding.Embedding(o.num_class_embeds, o.dim) end
  local blocks = {}
  for i = 1, o.depth do
    blocks[i] = TransformerBlock(o.dim,
      { heads = o.heads, mlp_ratio = o.mlp_ratio, dropout = o.dropout, fuse_qkv = o.fuse_qkv,
        conv_kernel = o.conv_kernel })
  end
  self.blocks = blocks
  self.norm_out = LayerNorm(o.dim)
  self.proj_out = Linear(o.dim, o.out_size or o.vocab_size)
  self.gradient_checkpointing = o.gradient_checkpointing
end

--- From now on backward computes each block again instead of keeping what is inside (see hd.checkpoint).
function Transformer:enable_gradient_checkpointing() self.gradient_checkpointing = true end

--- Keep everything again.
function Transformer:disable_gradient_checkpointing() self.gradient_checkpointing = false end

---@param tokens hd.Tensor  [n, t] integers, 1 to vocab_size, t at most max_length
---@param t any             time, as of UNet
---@param cond? { labels: hd.Tensor? }  labels [n] are 1-based classes
---@return hd.Tensor        [n, t, out_size] logits
function Transformer:forward(tokens, t, cond)
  local n, length = tokens:size(1), tokens:size(2)
  if length > self.max_length then
    check.fail("Transformer", "text is too long: got %d tokens, expected at most %d", length, self.max_length)
  end
  local positions = self.position_embedding
  if length < self.max_length then positions = positions:narrow(1, 1, length) end
  local told, labels = embedding.embed_times(self, t, n), cond and cond.labels
  if labels then
    if not self.class_embedding then check.fail("Transformer", "labels were given, but num_class_embeds was not") end
    told = told + self.class_embedding(labels)
  end
  local x = self.token_embedding(tokens) + positions + told:unsqueeze(2)
  for _, block in ipairs(self.blocks) do
    x = self.gradient_checkpointing and core.checkpoint(block, x) or block(x)
  end
  return self.proj_out(self.norm_out(x))
end

class.guard(Transformer, { "enable_gradient_checkpointing", "disable_gradient_checkpointing" })

return { Transformer = Transformer, TransformerBlock = TransformerBlock }
