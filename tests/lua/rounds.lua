-- tests/lua/rounds.lua: how often a test repeats what it does. HDLUA_LONG=1 asks for the long form, HDLUA_BRIEF=1 for a
-- quarter of the short one (under sanitizers).

local rounds = {}

rounds.long = os.getenv "HDLUA_LONG" == "1"

--- How often: in the short form, in the long one.
function rounds.times(short, long)
  return rounds.long and long or os.getenv "HDLUA_BRIEF" and (short + 3) // 4 or short
end

--- Print a line that tests/run.sh shows.
function rounds.count(format, ...) print("\ncount: " .. format:format(...)) end

return rounds
