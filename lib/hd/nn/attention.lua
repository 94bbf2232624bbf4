-- hd/nn/attention.lua: attention over tokens [n, t, c] and over the positions of signals and images [n, c, ...].
-- Names of weights are those of diffusers: to_q, to_k, to_v, to_out.0, or to_qkv where fused.

local class = require "hd.class"
local check = require "hd.check"
local core = require "hd.core"
local Linear = require "hd.nn.linear".Linear
local GroupNorm = require "hd.nn.norm".GroupNorm
local ModuleList = require "hd.nn.sequential".ModuleList
local weights = require "hd.nn.weights"
local Module = require "hd.nn.module".Module

---@class hd.nn.Attention : hd.nn.Module
local Attention = class("Attention", Module)

--- Multi-head attention of tokens on each other, or on a context; no mask.
--- With `fuse_qkv` one matrix makes queries, keys and values: faster, other names of weights; not for a context.
---@param channels integer
---@param opts? { heads: integer, fuse_qkv: boolean, context_channels: integer }
function Attention:init(channels, opts)
  local o = check.options("Attention", opts,
    { { "heads", "integer", 1 }, { "fuse_qkv", "boolean", false }, { "context_channels", "integer" } })
  self.channels, self.heads = check.arg("Attention", "channels", channels, "integer"), o.heads
  if o.heads < 1 or channels % o.heads ~= 0 then
    check.fail("Attention", "heads must divide channels: got %d heads, %d channels", o.heads, channels)
  end
  if o.fuse_qkv and o.context_channels then
    check.fail("Attention", "fuse_qkv needs queries and keys of the same tokens: leave out context_channels")
  end
  if o.fuse_qkv then
    self.to_qkv = Linear(channels, 3 * channels)
  else
    local source = o.context_channels or channels
    self.to_q, self.to_k, self.to_v = Linear(channels, channels), Linear(source, channels), Linear(source, channels)
  end
  self.to_out = ModuleList { Linear(channels, channels) }
end

-- [n, t, c] -> [n, heads, t, c / heads], heads of consecutive channels
local function split_heads(x, heads)
  local n, t, c = table.unpack(x:shape())
  return x:view(n, t, heads, c // heads):transpose(2, 3)
end

-- q, k and v by matrices of their own.
local function attend(self, tokens, context)
  local heads = self.heads
  local q = split_heads(self.to_q(tokens), heads)
  local k, v = split_heads(self.to_k(context), heads), split_heads(self.to_v(context), heads)
  return core.op.scaled_dot_product_attention(q, k, v):transpose(2, 3):reshape(tokens:shape())
end

--- Source: Vaswani et al. 2017.
---@param tokens hd.Tensor    [n, t, channels]
---@param context? hd.Tensor  [n, s, context_channels], default the tokens themselves
---@return hd.Tensor          [n, t, channels]
function Attention:forward(tokens, context)
  local out = self.to_qkv and core.op.scaled_dot_product_attention_qkvpacked(self.to_qkv(tokens), self.heads)
    or attend(self, tokens, context or tokens)
  return self.to_out[1](out)
end

function Attention:extra() return ("%d, %d heads"):format(self.channels, self.heads) end

-- Files that older releases of diffusers wrote name the parts otherwise.
local OLD_NAMES = { { "query", "to_q" }, { "key", "to_k" }, { "value", "to_v" }, { "proj_attn", "to_out.0" } }

local function move(state, from, to)
  if state[from] and not state[to] then state[to], state[from] = state[from], nil end
end

-- Join separate matrices for a fused layer.
local function fuse(state, prefix, part)
  local names = { prefix .. "to_q." .. part, prefix .. "to_k." .. part, prefix .. "to_v." .. part }
  local q, k, v = state[names[1]], state[names[2]], state[names[3]]
  if not (q and k and v) then return end
  state[prefix .. "to_qkv." .. part] = core.op.cat({ q, k, v }, 1)
  for _, name in ipairs(names) do state[name] = nil end
end

--- Give a state the names and the form that this layer has; load_state_dict calls it.
---@param state table<string, hd.Tensor>  changed
---@param prefix string  of this layer's names
function Attention:upgrade_state(state, prefix)
  for _, part in ipairs { "weight", "bias" } do
    for _, names in ipairs(OLD_NAMES) do
      move(state, prefix .. names[1] .. "." .. part, prefix .. names[2] .. "." .. part)
    end
    if self.to_qkv then fuse(state, prefix, part) end
  end
end

---@class hd.nn.AttentionBlock : hd.nn.Attention
local AttentionBlock = class("AttentionBlock", Attention)

--- x + attention(GroupNorm(x)) over all positions of [n, channels, ...], of each on all or on the tokens of a context.
---@param channels integer
---@param opts? table  heads, fuse_qkv, context_channels, norm_num_groups (32), norm_eps (1e-5), zero_init (begin as the
---                    identity)
function AttentionBlock:init(channels, opts)
  local o = check.options("AttentionBlock", opts, {
    { "heads", "integer", 1 }, { "fuse_qkv", "boolean", false }, { "norm_num_groups", "integer", 32 },
    { "norm_eps", "number", 1e-5 }, { "zero_init", "boolean", false }, { "context_channels", "integer" },
  })
  self.group_norm = GroupNorm(o.norm_num_groups, channels, { eps = o.norm_eps })
  Attention.init(self, channels, { heads = o.heads, fuse_qkv = o.fuse_qkv, context_channels = o.context_channels })
  if o.zero_init then weights.zero(self.to_out[1]) end
end

-- [n, c, ...] -> [n, t, c]; a view, as memory is channels-last
local function to_tokens(x) return x:flatten(3, -1):transpose(2, 3) end

---@param x hd.Tensor         [n, channels, ...]
---@param context? hd.Tensor  [n, s, context_channels]
---@return hd.Tensor          the shape of x
function AttentionBlock:forward(x, context)
  local out = Attention.forward(self, to_tokens(self.group_norm(x)), context):add_(to_tokens(x))
  return out:transpose(2, 3):reshape(x:shape())
end

return { Attention = Attention, AttentionBlock = AttentionBlock }
