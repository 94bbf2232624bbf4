-- hd/digest.lua: check sums of strings: SHA-256 to name a file by its content, CRC-32 for PNG chunks.
-- Sources: FIPS 180-4; PNG, ISO/IEC 15948, annex D. Called by: hd.image, hd.tool.augment.

local digest = {}

-- Round constants and first state: fractions of the cube and square roots of the first primes.
local function fraction_bits(root) return math.floor((root % 1) * 2 ^ 32) end

local K, START = {}, {}
do
  local n = 2
  while #K < 64 do
    local prime = true
    for d = 2, math.floor(math.sqrt(n)) do prime = prime and n % d ~= 0 end
    if prime then
      K[#K + 1] = fraction_bits(n ^ (1 / 3))
      if #START < 8 then START[#START + 1] = fraction_bits(math.sqrt(n)) end
    end
    n = n + 1
  end
end

-- A word of 32 bits turned to the right.
local function turned(x, by) return (x >> by | x << (32 - by)) & 0xffffffff end

local function schedule(text, at)
  local w = { string.unpack(">I4I4I4I4I4I4I4I4I4I4I4I4I4I4I4I4", text, at) }
  for i = 17, 64 do
    local a, b = w[i - 15], w[i - 2]
    w[i] = w[i - 16] + (turned(a, 7) ~ turned(a, 18) ~ a >> 3) + w[i - 7] + (turned(b, 17) ~ turned(b, 19) ~ b >> 10)
      & 0xffffffff
  end
  return w
end

local function compress(state, w)
  local a, b, c, d, e, f, g, h = table.unpack(state)
  for i = 1, 64 do
    local t1 = h + (turned(e, 6) ~ turned(e, 11) ~ turned(e, 25)) + (e & f ~ ~e & g) + K[i] + w[i]
    local t2 = (turned(a, 2) ~ turned(a, 13) ~ turned(a, 22)) + (a & b ~ a & c ~ b & c)
    a, b, c, d, e, f, g, h = t1 + t2 & 0xffffffff, a, b, c, d + t1 & 0xffffffff, e, f, g
  end
  for i, v in ipairs { a, b, c, d, e, f, g, h } do state[i] = state[i] + v & 0xffffffff end
end

--- SHA-256 of a string (about a second for two million bytes).
---@param text string
---@return string  64 hexadecimal digits
function digest.sha256(text)
  local state = table.move(START, 1, 8, 1, {})
  local padded = text .. "\x80" .. ("\0"):rep((55 - #text) % 64) .. string.pack(">I8", #text * 8)
  for at = 1, #padded, 64 do compress(state, schedule(padded, at)) end
  return (("%08x"):rep(8)):format(table.unpack(state))
end

local CRC = {}
for i = 0, 255 do
  local c = i
  for _ = 1, 8 do c = c & 1 == 1 and 0xedb88320 ~ c >> 1 or c >> 1 end
  CRC[i] = c
end

--- CRC-32 of a string, as in PNG and zip.
---@param text string
---@return integer
function digest.crc32(text)
  local c = 0xffffffff
  for i = 1, #text do c = CRC[(c ~ text:byte(i)) & 255] ~ c >> 8 end
  return c ~ 0xffffffff
end

return digest
