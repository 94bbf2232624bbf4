-- tests/lua/bench_spec.lua: the reference networks have the sizes that make them the reference networks.

local hdlua = assert(os.getenv "HDLUA", "HDLUA is not set: run by tests/run.sh")

local function run(words)
  local pipe = io.popen(("'%s' -m bench %s 2>&1"):format(hdlua, words))
  local text = pipe:read "a"
  local _, _, code = pipe:close()
  return text, code
end

it("all networks have their number of parameters and tensors", function()
  local text, code = run "--describe"
  assert.are.equal(0, code, text)
  for _, line in ipairs {
    "seed_model: 377731 parameters in 8 tensors", "unet32: 6472195 parameters in 244 tensors",
    "unet32_tiny: 1253475 parameters in 166 tensors", "sample32: 6472195 parameters in 244 tensors",
    "audio1d: 2623969 parameters in 182 tensors", "text: 3406080 parameters in 58 tensors",
  } do
    assert.is_not_nil(text:find(line, 1, true), line)
  end
end)

it("an unknown workload ends with code 2 and the nearest", function()
  local text, code = run "--workload unet23"
  assert.are.equal(2, code)
  assert.matches("did you mean 'unet32'", text)
end)
