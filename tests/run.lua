-- tests/run.lua: busted under hdlua. Called by tests/run.sh with busted's own options and a spec file.
require "busted.runner" { standalone = false }
