-- hd/tool/words.lua: "a, b" as { "a", "b" }, as options of the command line say lists.
-- Called by: augment, augment_study, bench, compare_audio, study/options.

---@param text string
---@return string[]
return function(text)
  local list = {}
  for word in text:gmatch "[^,%s]+" do list[#list + 1] = word end
  return list
end
