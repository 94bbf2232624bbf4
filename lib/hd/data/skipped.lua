-- hd/data/skipped.lua: tell a person once which files of a folder were left out.
-- Called by: hd.data.folder, hd.data.wav.

---@param where string  "data.folder"
---@param what string   "pictures"
---@param dir string
---@param skipped { path: string, message: string }[]
---@param total integer
return function(where, what, dir, skipped, total)
  if #skipped == 0 then return end
  io.stderr:write(("%s: skipped %d of %d %s in '%s':\n"):format(where, #skipped, total, what, dir))
  for i = 1, math.min(#skipped, 10) do io.stderr:write("  ", skipped[i].message, "\n") end
  if #skipped > 10 then io.stderr:write(("  and %d more (set.skipped lists them)\n"):format(#skipped - 10)) end
end
