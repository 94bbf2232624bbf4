-- Every build of the kernels that this processor runs, with both ways to compute products, keeps the limits of error
-- and gives the same bits on any number of threads: builds.lua says what is looked at.

local program = assert(os.getenv "HDLUA", "HDLUA is not set: run by tests/run.sh")
local hdlua = (os.getenv "HDLUA_UNDER" or "") .. " " .. program

local function output_of(command)
  local pipe <close> = io.popen(command .. " 2>&1")
  return pipe:read "a"
end

local seen = {}
for _, wanted in ipairs { "avx512", "avx2", "base" } do
  local isa = output_of(("HDLUA_ISA=%s %s --version"):format(wanted, hdlua)):match "instruction set (%w+)"
  for _, gemm in ipairs(seen[isa] and {} or { "kernel", "blas" }) do
    it(("the build %s with products by %s is accurate and repeatable"):format(isa, gemm), function()
      local text = output_of(("HDLUA_ISA=%s HDLUA_GEMM=%s %s tests/lua/builds.lua"):format(isa, gemm, hdlua))
      assert.is_nil(text:match "wrong: [^\n]*", text)
      assert.is_true(tonumber(text:match "(%d+) comparisons") > 1000, text)
    end)
  end
  seen[isa] = true
end
