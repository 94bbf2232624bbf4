-- hd/preview.lua: the preview window. Calls: core.preview_*. Called by: hd.run, examples.
-- The window is another process: it stays responsive while a step runs, and nothing that happens to it reaches the
-- training. Keys: space pauses drawing, s asks to save, 1..9 show one column large, 0 all, q or Esc close the window.

local core = require "hd.core"
local check = require "hd.check"
local class = require "hd.class"

local preview = {}

--- A preview window. Made by `hd.preview.open`; also a value for `local p <close> =`.
---@class hd.Preview
local Preview = class "hd.Preview"

-- Is there a display to open a window on by ourselves?
local function has_display()
  return (os.getenv "DISPLAY" or "") ~= "" or (os.getenv "WAYLAND_DISPLAY" or "") ~= ""
end

-- Why `view` opens no window; nil where it may.
local function refusal(view)
  if view == "auto" and not has_display() then
    return "preview: no display: neither DISPLAY nor WAYLAND_DISPLAY is set"
  end
  if view ~= "auto" and view ~= "window" then return ("preview: no window: the view is '%s'"):format(view) end
end

--- Open a preview window.
---
---     local window = hd.preview.open { title = "emoji", columns = { "shapes", "colours", "joined" } }
---     if window then window:show { { name = "joined", image = x } } end
---
---@param options? { title?: string, view?: string, columns?: string[] }  view: "auto" (a window where DISPLAY or
--- WAYLAND_DISPLAY is set), "window", or a word for no window ("off", "png", "term"); default: that of `--view`.
--- columns: the labels to show until pictures come.
---@return hd.Preview? window  nil where there is none: train on
---@return string? reason  why there is none
function preview.open(options)
  local o = check.options("preview.open", options, {
    { "title", "string", "hdlua" },
    { "view", { "auto", "window", "png", "term", "off" }, core.options and core.options.view or "auto" },
    { "columns", "table", {} },
  })
  local reason = refusal(o.view)
  if reason then return nil, reason end
  local handle, message = core.preview_open(o.title)
  if not handle then return nil, message end
  local window = Preview()
  window.handle = handle
  local columns = {}
  for i, name in ipairs(o.columns) do columns[i] = { name = name } end
  window:show(columns)
  return window
end

--- Show pictures: one column each, in this order. The window shows the newest when it is slower than the training.
---@param columns { name: string, image: hd.Tensor? }[]  image: [c,h,w] or [n,c,h,w] (a grid), c 1 or 3, u8 or f32 in
--- [-1,1]; without image an empty place. At most 16 columns.
---@return boolean open  false once the window is gone (nothing else happens then)
function Preview:show(columns)
  check.arg("preview.show", "columns", columns, "table")
  if #columns > 16 then
    return check.fail("preview.show", "too many columns: got %d, expected at most 16", #columns)
  end
  local list = {}
  for i, column in ipairs(columns) do
    check.arg("preview.show", ("column %d"):format(i), column, "table")
    list[i] = check.options("preview.show", column, { { "name", "string", required = true }, { "image", "tensor" } })
  end
  return core.preview_show(self.handle, list)
end

--- Set the line under the pictures.
---@param text string  ASCII, at most four lines
function Preview:text(text)
  core.preview_text(self.handle, check.arg("preview.text", "text", text, "string"))
end

--- What happened in the window since the last call, oldest first.
--- Kinds: "save" (key s), "paused", "resumed" (space), "resized" (width, height), "key" (key), "closed" (the last one).
---@return { kind: string, key: string?, width: integer?, height: integer? }[]
function Preview:poll()
  return core.preview_poll(self.handle)
end

--- Is the window there? It may have been closed, destroyed or killed.
---@return boolean
function Preview:is_open()
  return core.preview_is_open(self.handle)
end

--- Close the window; the object may be used on and does nothing.
function Preview:close()
  core.preview_close(self.handle)
end

Preview.__close = Preview.close
class.guard(Preview, { "show", "text", "poll", "is_open", "close" })

return preview
