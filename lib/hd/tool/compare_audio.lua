-- hd/tool/compare_audio.lua: `hdlua -m compare_audio`, diffusion of sounds: by frequency bands, beside all bins at
-- once, after the same minutes.
--
--     hdlua -m compare_audio --data wav:DIR --speakers jackson --minutes 15
--     hdlua -m compare_audio --minutes 5 --arms bands
--
-- Both arms have as many parameters, the same transform, batches, optimizer, minutes and drawing steps. They learn from
-- nine tenths of the named speakers' clips; a recogniser learns from all other speakers (and from --also, a folder of
-- more) and says whether drawn clips are what was asked for. Of synth, which has no speakers, it learns from clips of
-- another seed. Each finished cell, an arm with a seed, is appended to OUT/audio-NAME.tsv at once: the same command
-- goes on where an interrupted one ended. OUT/audio-NAME.md holds the table, spectrograms, sounds.

local hd = require "hd"
local core = require "hd.core"
local interval = require "hd.metrics.interval"
local neighbours = require "hd.metrics.neighbours"
local about = require "hd.tool.study.about"
local options_of = require "hd.tool.study.options"
local Store = require "hd.tool.study.store"
local trainer = require "hd.tool.study.trainer"
local recogniser = require "hd.tool.sound.recogniser"
local words_of = require "hd.tool.words"

local ARMS = { "flat", "bands" }
local COLUMNS = {
  "arm", "seed", "point", "share", "parameters", "steps", "minutes", "seconds", "asked", "recognised", "decibels",
  "near_made", "near_real", "copies", "unheard", "settings",
  texts = { arm = true, point = true, decibels = true, settings = true }, places = { "seed", "share" },
}

local args = hd.args({
  data = "synth", speakers = "", also = hd.args.string, name = hd.args.string, rate = 8000, length = 8192, bands = 3,
  bins = 64, arms = "flat,bands", seeds = 1, minutes = 15.0, steps = hd.args.integer, batch = 16, width = 64, depth = 1,
  lr = 2e-3, ema = 0.995, points = 2, draw_steps = 18, guidance = 1.0, samples = 200, recogniser_steps = 800,
  out = "docs/results",
}, {
  "Compare diffusion of sounds by frequency bands with diffusion of all at once.",
  data = "synth, or wav:DIR with files CLASS_SPEAKER_TAKE.wav", speakers = "comma-separated: those to learn from",
  also = "a folder of further sounds of the same classes, for the recogniser", name = "of the study (the data's)",
  rate = "frames per second", length = "frames of a clip", bands = "of the arm `bands`", bins = "of the transform",
  arms = "comma-separated: flat, bands", seeds = "how many, from --seed on", minutes = "wall clock of each cell",
  steps = "train so many steps instead", batch = "clips in a step", width = "channels of the bands' networks",
  depth = "blocks of each of their levels", lr = "highest learning rate", ema = "decay of the averaged weights",
  points = "at how many shares of the budget: 1, 1/2, 1/4 ...", draw_steps = "sampling steps",
  guidance = "how much more the class counts in drawing (1: not at all)", samples = "clips that are drawn",
  recogniser_steps = "training steps of the recogniser", out = "folder of the results",
})

local options = options_of("compare_audio", args)
local fail, say = options.fail, options.say

-- Data ----------------------------------------------------------------------------------------------------------------

-- A folder's clips, or the end.
local function open_folder(dir, opts)
  opts.rate, opts.length = args.rate, args.length
  local set, message = hd.data.wav(dir, opts)
  if not set then fail("%s", message) end
  if not set.labels then fail("'%s': the sounds have no classes", dir) end
  return set
end

-- What is learnt from, and the sets that the recogniser learns from.
local function open_data()
  local dir = args.data:match "^wav:(.+)$"
  if not dir then
    if args.data ~= "synth" then fail("--data is wrong: got '%s', expected synth or wav:DIR", args.data) end
    local function clips(seed)
      return hd.data.synth { rate = args.rate, length = args.length, n = 1000, seed = seed }
    end
    return clips(0), { clips(1) }
  end
  local speakers = words_of(args.speakers)
  if #speakers == 0 then fail "--speakers is missing: those to be learnt; the recogniser hears the others" end
  local set = open_folder(dir, { speakers = speakers })
  local others = { open_folder(dir, { except = speakers }) }
  if args.also then others[2] = open_folder(args.also, {}) end
  for _, other in ipairs(others) do
    if table.concat(other.classes, " ") ~= table.concat(set.classes, " ") then
      fail("classes differ: got '%s' and '%s'", table.concat(set.classes, " "), table.concat(other.classes, " "))
    end
  end
  return set, others
end

-- Arms ----------------------------------------------------------------------------------------------------------------

local function hierarchy(bands)
  return hd.hierarchy.audio { rate = args.rate, length = args.length, bands = bands, bins = args.bins }
end

local function count(H, width, classes)
  return H:models({ width = width, depth = args.depth, classes = classes }):num_parameters()
end

-- The width at which one network has the parameters of the bands' networks together.
local function width_of(H, wanted, classes)
  local best, least = nil, math.huge
  for width = 8, 1024, 8 do
    local _ <close> = hd.scope()
    local off = math.abs(count(H, width, classes) - wanted)
    if off >= least then break end
    best, least = width, off
  end
  return best
end

local function make_arm(name, set)
  local classes = #set.classes
  local H = hierarchy(name == "flat" and 1 or args.bands)
  H:check(set)
  H:fit_stats(set)
  local width = args.width
  if name == "flat" then width = width_of(H, count(hierarchy(args.bands), width, classes), classes) end
  return { name = name, H = H, steps = args.steps, options = { width = width, depth = args.depth, classes = classes } }
end

-- Figures -------------------------------------------------------------------------------------------------------------

local function median(distances)
  local sorted = distances:totable()
  table.sort(sorted)
  return sorted[(#sorted + 1) // 2]
end

-- How near drawn clips and held ones are to those learnt from, and the share that is nearer than any held one.
local function nearness(known, held, made)
  local function features(x) return recogniser.features(x, args.rate) end
  local train = features(known)
  local of_held = neighbours.nearest(train, features(held), false)
  local of_made = neighbours.nearest(train, features(made), false)
  return median(of_made), median(of_held), of_made:lt(of_held:amin():item()):to "f64":mean():item()
end

local function draw(arm, models, n)
  local labels = hd.arange(0, n - 1) % arm.options.classes + 1
  return arm.H:sample(models, n, { seed = args.seed, labels = labels, guidance = args.guidance,
    steps = args.draw_steps }):clamp(-1, 1), labels
end

-- Train an arm and measure; gives the points, the one at the end last, and the clips drawn there.
local function run_cell(study, arm, seed)
  local state, records, x = trainer.new(study, arm, seed), {}, nil
  for _, share in ipairs(trainer.shares(args.points)) do
    while state.share() < share do state.step() end
    local start = hd.clock()
    local labels
    x, labels = draw(arm, state.ema.model, args.samples)
    local seconds = hd.clock() - start
    local right = recogniser.answers(study.ear, x):eq(labels):sum():item()
    local words = {}
    for i, db in ipairs(hd.audio.band_difference(study.set.x, x, { rate = args.rate, edges = study.edges })) do
      words[i] = ("%+.2f"):format(db)
    end
    local near_made, near_real, copies = nearness(study.set.x, study.held.x, x)
    records[#records + 1] = { arm = arm.name, seed = seed, point = share < 1 and "train" or "end", share = share,
      parameters = state.models:num_parameters(), steps = state.steps, minutes = state.seconds / 60,
      seconds = seconds, asked = args.samples, recognised = right / args.samples, decibels = table.concat(words, " "),
      near_made = near_made, near_real = near_real, copies = copies, unheard = study.unheard }
    say("%s, seed %d: %.3g of the budget, %d steps, %.2f min: %.1f %% recognised, bands %s dB", arm.name, seed, share,
      state.steps, state.seconds / 60, 100 * right / args.samples, table.concat(words, " "))
  end
  return records, x
end

-- The page ------------------------------------------------------------------------------------------------------------

-- Clips one after the other in a sound file, and their spectrograms.
local function write_sounds(stem, x, classes)
  local n = math.min(2 * classes, x:size(1))
  local clips = x:narrow(1, 1, n)
  assert(hd.image.save(stem .. ".png", hd.image.grid(hd.audio.picture(clips), { columns = classes })))
  assert(hd.audio.save(stem .. ".ogg", clips:narrow(1, 1, math.min(classes, n)):reshape(-1), args.rate))
end

-- Clips of a set in the order in which others are drawn: one of each class, and again.
local function by_class(set, n)
  local first = set:per_class(n)
  local order, seen = {}, {}
  for i, label in ipairs(first.labels:totable()) do
    seen[label] = (seen[label] or 0) + 1
    order[(seen[label] - 1) * #set.classes + label] = i
  end
  return first:subset(order).x
end

local function row_of(r)
  local found = interval.of_share(math.floor(r.recognised * r.asked + 0.5), r.asked)
  return ("| %s | %d | %d | %d | %.2f | %.0f | %.1f [%.1f, %.1f] | %s | %.3f | %.3f | %.3f |"):format(r.arm, r.seed,
    r.parameters, r.steps, r.minutes, r.seconds, 100 * r.recognised, 100 * found.low, 100 * found.high, r.decibels,
    r.near_made, r.near_real, r.copies)
end

local function write_page(store, stem, name, study)
  local edges, unheard = {}, nil
  for i, edge in ipairs(study.edges) do edges[i] = ("%.0f"):format(edge) end
  local lines = {}
  for _, arm in ipairs(ARMS) do
    for _, r in ipairs(store:points(arm)) do
      lines[#lines + 1], unheard = row_of(r), r.unheard
    end
  end
  if not unheard then return end
  local head = {
    "<!-- written by hdlua -m compare_audio from the .tsv beside it -->",
    ("# %s: diffusion of sounds, flat and by frequency bands"):format(name), "",
    ("Command: `%s`  "):format(about.command "compare_audio"), ("Machine: %s"):format(about.machine()), "",
    ("Learnt from: %d clips; %d held back. A recogniser that has heard none of these speakers is right on %.1f %% of "
      .. "their clips; `recognised` is how often it hears in a drawn clip the class that was asked for, in percent, in "
      .. "brackets Wilson's 95 %% interval. Bands end at %s Hz; their power beside the real one in dB. `nearest`: "
      .. "median distance to the nearest clip learnt from, of drawn clips and of real ones held back (normalised mel "
      .. "spectrograms, of deviation 1); `nearer`: the share of drawn clips nearer to one than any held one is.")
      :format(#study.set, #study.held, 100 * unheard, table.concat(edges, ", ")), "",
    "| arm | seed | parameters | steps | minutes | drawing, s | recognised | bands, dB | nearest, drawn "
      .. "| nearest, real | nearer |",
    "|" .. (" --- |"):rep(11),
  }
  table.move(lines, 1, #lines, #head + 1, head)
  head[#head + 1] = "\nSpectrograms, a column for each class, two clips of each; the sounds are the first line:"
  for _, arm in ipairs { "real", table.unpack(ARMS) } do
    local file = ("%s-%s"):format(stem, arm)
    if core.path_kind(file .. ".png") then
      file = file:match "[^/]+$"
      head[#head + 1] = ("\n%s ([%s.ogg](%s.ogg)):\n\n![%s](%s.png)"):format(arm, file, file, arm, file)
    end
  end
  assert(core.file_write(stem .. ".md", table.concat(head, "\n") .. "\n"))
end

-- The study -----------------------------------------------------------------------------------------------------------

local function settings_text(set)
  local words = { ("clips=%d"):format(#set), about.settings(args, { "data", "speakers", "also", "rate", "length",
    "bands", "bins", "minutes", "steps", "batch", "width", "depth", "lr", "ema", "draw_steps", "guidance", "samples",
    "recogniser_steps" }) }
  if not args.steps then words[#words + 1] = "threads=" .. hd.threads() end
  return table.concat(words, " ")
end

-- The recogniser and how often it is right on the clips of those it has not heard; made when first needed.
local function listen(study, set, others)
  if study.ear then return end
  study.ear = recogniser.train(others, { steps = args.recogniser_steps, seed = 0, classes = #set.classes })
  study.unheard = recogniser.answers(study.ear, set.x):eq(set.labels):to "f64":mean():item()
  say("the recogniser is right on %.1f %% of %d clips of speakers it has not heard", 100 * study.unheard, #set)
end

local function run()
  options.at_least { seeds = 1, batch = 1, points = 1, draw_steps = 1, samples = 1, recogniser_steps = 1, width = 1 }
  if (args.steps or args.minutes) <= 0 then fail "the budget is wrong: expected more than 0" end
  local _, wanted = options.choices("arms", ARMS)
  local set, others = open_data()
  local name = args.name or (args.speakers ~= "" and args.speakers:gsub(",", "-") or args.data:match "^%w+")
  assert(core.folder_make(args.out))
  local stem = args.out .. "/audio-" .. name
  local store = Store(stem .. ".tsv", settings_text(set), COLUMNS)
  local known, held = set:split(0.9, 0)
  local study = { set = known, held = held, batch = args.batch, lr = args.lr, ema = args.ema, classes = true,
    minutes = not args.steps and args.minutes, edges = hierarchy(args.bands).edges }
  write_sounds(stem .. "-real", by_class(known, 2), #set.classes)
  for seed = args.seed, args.seed + args.seeds - 1 do
    for _, arm_name in ipairs(ARMS) do
      if wanted[arm_name] and store:has(arm_name, seed) then
        say("%s, seed %d: measured before", arm_name, seed)
      elseif wanted[arm_name] then
        listen(study, set, others)
        local records, x = run_cell(study, make_arm(arm_name, known), seed)
        assert(store:append(records))
        if seed == args.seed then write_sounds(("%s-%s"):format(stem, arm_name), x, #set.classes) end
        write_page(store, stem, name, study)
      end
    end
  end
  write_page(store, stem, name, study)
  say("wrote %s.md", stem)
end

run()
