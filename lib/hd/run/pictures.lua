-- hd/run/pictures.lua: what a run shows: the preview window, grids of samples, loss curves.
-- Calls: core, run/log, hd.image, hd.plot, hd.preview (each loaded when first needed). Called by: hd.run.

local core = require "hd.core"
local check = require "hd.check"
local logs = require "hd.run.log"

-- { {name =, image = [n,c,h,w]}, … }: the levels in their order, then the joined result.
local function columns_of(self, x, levels)
  local list, seen, others = {}, {}, {}
  for _, name in ipairs(self.levels) do
    if levels[name] then list[#list + 1] = { name = name, image = levels[name] } end
    seen[name] = true
  end
  for name in next, levels do -- order free: sorted below
    if not seen[name] then others[#others + 1] = name end
  end
  table.sort(others)
  for _, name in ipairs(others) do list[#list + 1] = { name = name, image = levels[name] } end
  list[#list + 1] = { name = "joined", image = x }
  return list
end

return function(Run)
  --- The preview window, opened when first asked for where `--view` and the display allow it.
  ---@return hd.Preview? window  nil where there is none, or not any more
  function Run:window()
    if self.shown == nil then
      local columns = table.move(self.levels, 1, #self.levels, 1, {})
      columns[#columns + 1] = "joined"
      local window, reason = require "hd.preview".open { title = "hdlua " .. self.out, columns = columns }
      local view = core.options.view or "auto"
      if not window and (view == "auto" or view == "window") then self:say(reason) end
      self.shown = window or false
    end
    return self.shown and self.shown:is_open() and self.shown or nil
  end

  --- Show pictures in the preview window alone.
  ---@param x hd.Tensor  [n,c,h,w] in [-1,1]
  ---@param levels? table<string, hd.Tensor>  pictures of the levels, as from H:sample with all = true
  ---@return boolean open  is there a window?
  function Run:preview(x, levels)
    local window = self:window()
    return window ~= nil and window:show(columns_of(self, x, levels or {}))
  end

  --- Write pictures to OUT/samples_STEP.png, a grid of each level beside that of the joined result, and show them in
  --- the preview window.
  ---@param x hd.Tensor  [n,c,h,w] in [-1,1]
  ---@param levels? table<string, hd.Tensor>  pictures of the levels, as from H:sample with all = true
  ---@return string? path  nil and a message where it cannot be written
  ---@return string? message
  function Run:show(x, levels)
    check.arg("run:show", "x", x, "tensor")
    if x:dim() ~= 4 then
      check.fail("run:show", "x is wrong: got %s, expected [n,channels,height,width]", check.show(x))
    end
    self:preview(x, levels)
    local _ <close> = core.scope()
    local path = ("%s/samples_%06d.png"):format(self.out, self.current or self.step)
    local done, message = require "hd.image".save(path, require "hd.plot".grid(columns_of(self, x, levels or {})))
    if not done then
      self:say("run: " .. message)
      return nil, message
    end
    return path
  end

  --- Draw the loss curves in the log to OUT/loss.png; done each minute and at the end.
  function Run:plot()
    local curves = logs.curves(self.log_file.path, self.step, 400, self.levels)
    if #curves == 0 then return end
    local _ <close> = core.scope()
    local picture = require "hd.plot".lines(curves, { title = "loss", x_label = "step", log_y = true })
    local done, message = require "hd.image".save(self.out .. "/loss.png", picture)
    if not done then self:say("run: " .. message) end
  end
end
