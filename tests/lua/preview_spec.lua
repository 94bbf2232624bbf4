-- The preview window under a display of its own (Xvfb), driven by xdotool and seen through xwd. Each case runs a script
-- in another hdlua, because the display is part of a process's environment. tests/c/test_preview.c has the parts that
-- need no display.

local hdlua = assert(os.getenv "HDLUA", "HDLUA is not set: run by tests/run.sh")

local function capture(command)
  local pipe = assert(io.popen(command))
  local text = pipe:read "a"
  pipe:close()
  return text
end

-- Call `condition` until it gives a true value, for 20 s at most (the machine may be busy); returns that value.
local function eventually(what, condition)
  local stop = os.time() + 20
  while os.time() <= stop do
    local value = condition()
    if value then return value end
    os.execute "sleep 0.1"
  end
  error("never happened: " .. what, 2)
end

-- The script under test: shows frame 1, then the next one at each key "n". A frame has two columns of four 8x8 pictures
-- in one colour of its own. It ends 20 steps after the window has gone.
local SCRIPT = [[
local hd = require "hd"
local log = assert(io.open(arg[1], "w"))
log:setvbuf "line"
local p <close>, reason = hd.preview.open { title = "preview spec", columns = { "left", "right" } }
log:write(p and "open" or tostring(reason), "\n")
local levels = { 80, 140, 200 }
local frame, left = 1, 20
local function column(name, level) return { name = name, image = hd.full({ 4, 3, 8, 8 }, level, { dtype = "u8" }) } end
local function show()
  p:show { column("left", levels[frame]), column("right", levels[frame] + 20) }
  p:text(("step %d"):format(frame))
end
if p then show() end
for step = 1, 5000 do
  os.execute "sleep 0.02"
  for _, event in ipairs(p and p:poll() or {}) do
    log:write(event.kind, " ", event.key or "", "\n")
    if event.key == "n" then
      frame = frame % 3 + 1
      show()
    end
  end
  if p and step % 10 == 0 then p:text(("step %d"):format(step)) end
  if not (p and p:is_open()) then left = left - 1 end
  if left == 0 then break end
end
log:write "done\n"
]]

describe("the preview window", function()
  local folder, display, server, process, window

  local function path(name) return folder .. "/" .. name end

  local function read(name)
    local file = io.open(path(name), "rb")
    local text = file and file:read "a" or ""
    if file then file:close() end
    return text
  end

  -- Start the script in the background under `environment` (words for env).
  local function start(environment)
    os.remove(path "log")
    local command = "(cd %s && exec env %s %s %s/script.lua log >out 2>&1 & echo $!)"
    process = capture(command:format(folder, environment or ("DISPLAY=" .. display), hdlua, folder)):match "%d+"
  end

  local function logged(words)
    return eventually(words .. "\n" .. read "log" .. read "out", function()
      return ("\n" .. read "log"):find("\n" .. words .. " *\n") ~= nil
    end)
  end

  local function xdotool(words) return capture(("DISPLAY=%s xdotool %s 2>/dev/null"):format(display, words)) end

  local function find_window()
    window = eventually("a window", function()
      local failure = read "out"
      if failure ~= "" then error(failure, 0) end
      return xdotool("search --name 'preview spec'"):match "%d+"
    end)
  end

  local function no_window()
    eventually("no window", function() return xdotool("search --name 'preview spec'") == "" end)
  end

  -- A window that closes at the press takes xdotool with it, so the key is released once more.
  local function press(key)
    xdotool(("key --window %s %s"):format(window, key))
    xdotool("keyup " .. key)
  end

  -- How many pixels of the window have the colour (r, g, b). xwd's format: big-endian 4-byte words, the header's length
  -- first, the number of 12-byte colours at byte 76; then 4 bytes B G R 0 a pixel.
  local function count_colour(r, g, b)
    local dump = capture(("DISPLAY=%s xwd -id %s -silent 2>/dev/null"):format(display, window))
    if #dump < 80 then return 0 end -- the window is not there yet, or not any more
    local first = (">I4"):unpack(dump) + 12 * (">I4"):unpack(dump, 77) + 1
    local n, from, pattern = 0, first, string.char(b, g, r, 0)
    while true do
      local at = dump:find(pattern, from, true)
      if not at then return n end
      if (at - first) % 4 == 0 then n, from = n + 1, at + 4 else from = at + 1 end
    end
  end

  local function count_grey(level) return count_colour(level, level, level) end

  local function shows_frame(level)
    eventually("a frame of level " .. level, function() return count_grey(level) > 0 end)
    return count_grey(level), count_grey(level + 20)
  end

  setup(function()
    folder = os.tmpname()
    os.remove(folder)
    assert(os.execute("mkdir " .. folder))
    local file = assert(io.open(path "script.lua", "w"))
    file:write(SCRIPT)
    file:close()
    hdlua = capture("readlink -f " .. hdlua):gsub("%s+$", "")
    local run = "exec Xvfb -displayfd 3 -screen 0 1280x800x24 -nolisten tcp -noreset 3>display >xvfb 2>&1"
    server = assert(capture(("(cd %s && %s & echo $!)"):format(folder, run)):match "%d+")
    display = ":" .. eventually("Xvfb", function() return read("display"):match "%d+" end)
  end)

  -- Kill the script, if this process number is still its own.
  local function kill_script()
    os.execute(("grep -qsF %s /proc/%s/cmdline && kill -9 %s"):format(folder, process, process))
  end

  after_each(function()
    kill_script()
    no_window()
  end)

  teardown(function() os.execute(("kill %s; rm -r %s"):format(server, folder)) end)

  it("shows the pixels of each frame, each one a square", function()
    start()
    find_window()
    local area
    for frame, level in ipairs { 80, 140, 200 } do
      if frame > 1 then press "n" end
      local left, right = shows_frame(level)
      area = area or left
      assert.are.equal(area, left)
      assert.are.equal(area, right)
      assert.are.equal(0, count_grey(level == 80 and 140 or 80))
    end
    local side = math.sqrt(area / 256)
    assert.are.equal(math.floor(side), side)
  end)

  it("reacts to its keys and passes on what is meant for the training", function()
    start()
    find_window()
    local small = shows_frame(80)
    press "1"
    eventually("one column large", function() return count_grey(80) > small and count_grey(100) == 0 end)
    press "0"
    eventually("both columns", function() return count_grey(80) == small and count_grey(100) == small end)
    local function accent() return count_colour(0xe8, 0xa8, 0x52) end
    assert.are.equal(0, accent())
    press "s"
    eventually("the note of the save", function() return accent() > 0 end)
    logged "save"
    eventually("the note's end", function() return accent() == 0 end)
    press "space"
    logged "paused"
    eventually("the word paused", function() return accent() > 0 end)
    press "n"
    logged "key n"
    os.execute "sleep 0.2"
    assert.are.equal(small, count_grey(80)) -- still the frame at which it was paused
    press "space"
    shows_frame(140)
    assert.are.equal(0, accent())
  end)

  it("fits its pictures to a new size", function()
    start()
    find_window()
    local area = shows_frame(80)
    xdotool(("windowsize %s 400 300"):format(window))
    logged "resized"
    eventually("smaller pictures", function() return count_grey(80) > 0 and count_grey(80) < area end)
  end)

  for _, how in ipairs { "windowclose", "windowkill", "q", "Escape" } do
    it("may go by " .. how .. " and the training goes on", function()
      start()
      find_window()
      shows_frame(80)
      if how:find "^window" then xdotool(how .. " " .. window) else press(how) end
      logged "closed"
      no_window()
      logged "done"
      assert.are.equal("", read "out")
    end)
  end

  it("may lose its process and the training goes on", function()
    start()
    find_window()
    os.execute("kill -9 $(pgrep -P " .. process .. " -f hd-preview-child)")
    logged "closed"
    logged "done"
    assert.are.equal("", read "out")
  end)

  it("ends when the training is killed", function()
    start()
    find_window()
    kill_script()
    no_window()
  end)

  it("gives a reason where there is no display, and the training goes on", function()
    start("-u DISPLAY -u WAYLAND_DISPLAY")
    logged "preview: no display: neither DISPLAY nor WAYLAND_DISPLAY is set"
    logged "done"
  end)

  it("gives a reason where the display does not answer", function()
    start("-u WAYLAND_DISPLAY -u SDL_VIDEODRIVER DISPLAY=:99999")
    logged "preview: no display.*"
    logged "done"
  end)
end)

describe("hd.preview", function()
  local hd = require "hd"

  it("opens nothing when it is switched off", function()
    local window, reason = hd.preview.open { view = "off" }
    assert.is_nil(window)
    assert.are.equal("preview: no window: the view is 'off'", reason)
  end)

  it("refuses unknown options and views", function()
    assert.error_matches(function() hd.preview.open { titel = "x" } end, "unknown option 'titel'. did you mean 'title'")
    assert.error_matches(function() hd.preview.open { view = "windw" } end, "did you mean 'window'")
  end)
end)
