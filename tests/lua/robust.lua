-- tests/lua/robust.lua: the list of odd, valid and damaged files in ../shared/data/robust, where it is there.

local robust = {}

--- The entries of the given formats, {file, path, format, expected, reading}; nil without the folder.
function robust.list(formats)
  local dir = "../shared/data/robust/"
  local f <close> = io.open(dir .. "EXPECTED.tsv")
  if not f then return nil end
  local list = {}
  for line in f:lines() do
    local file, format, _, expected, _, _, reading = line:match(("([^\t]*)\t?"):rep(7))
    if formats[format] then
      list[#list + 1] = { file = file, path = dir .. file, format = format, expected = expected, reading = reading }
    end
  end
  return list
end

return robust
