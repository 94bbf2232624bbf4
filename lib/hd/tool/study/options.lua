-- hd/tool/study/options.lua: what studies say at the command line, and how they check what they are told.
-- Called by: augment_study, compare, compare_audio, compare_text.

local check = require "hd.check"
local words_of = require "hd.tool.words"

--- The voice of a tool and checks of its options.
---@param tool string  its name, before each error
---@param args table   of hd.args
---@return table  fail(format, ...): say why and end; say(format, ...): a line of progress; choices(key, known);
---  at_least(bounds)
return function(tool, args)
  local options = {}

  function options.fail(format, ...)
    io.stderr:write(tool, ": ", format:format(...), "\n")
    os.exit(1, true)
  end

  function options.say(format, ...)
    print(format:format(...))
    io.stdout:flush()
  end

  -- The words of an option, one at least, each among those known: as a list, and as { word = true }.
  function options.choices(key, known)
    local list, chosen, is_known = {}, {}, {}
    for _, word in ipairs(known) do is_known[word] = true end
    for _, word in ipairs(words_of(args[key])) do
      if not is_known[word] then
        options.fail("--%s has the wrong value: got '%s'. %s", key, word, check.suggestion(word, known))
      end
      list[#list + 1], chosen[word] = word, true
    end
    if #list == 0 then options.fail("--%s has no value", key) end
    return list, chosen
  end

  -- Numbers that have a least value: { key = least }.
  function options.at_least(bounds)
    for key, least in next, bounds do -- order free: any fault will do
      if args[key] < least then
        options.fail("--%s is wrong: got %d, expected at least %d", key:gsub("_", "-"), args[key], least)
      end
    end
  end

  return options
end
