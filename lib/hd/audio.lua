-- hd/audio.lua: sounds as tensors f32 [channels, frames], full scale is -1 to 1, and spectrograms of them.
-- Calls: core (libsndfile, loaded at first use), hd.audio.spectrogram, hd.check. Called by: hd.lua, hd.data.wav, tools.

local core = require "hd.core"
local check = require "hd.check"
local spectrogram = require "hd.audio.spectrogram"

local audio = {
  band_difference = spectrogram.band_difference, picture = spectrogram.picture, spectrogram = spectrogram.power,
}

--- Read a WAV, FLAC, OGG (Vorbis) or AIFF file.
--- Whole numbers of n bits become -1 to 1 - 2^(1 - n). Refused are files without frames, above 64 channels, 64 Mi
--- values or 256 MiB, and values that are not finite; a file that ends early gives the frames that are there.
---@param path string
---@return hd.Tensor? sound  f32 [channels, frames]; nil and a message where it cannot be read
---@return integer|string rate  frames per second
function audio.load(path)
  local x, rate = core.audio_load(check.arg("audio.load", "path", path, "string"))
  if not x then return nil, "audio.load: " .. rate end
  return x, rate
end

local ENDINGS = { wav = "wav", flac = "flac", ogg = "ogg", aiff = "aiff", aif = "aiff" }
local MOST_BITS = { wav = 32, aiff = 32, flac = 24, ogg = 32 }

--- Write a sound, whole or not at all.
---@param path string    ending in .wav, .flac, .ogg, .aif or .aiff
---@param x hd.Tensor    [channels, frames] or [frames], f32 or f64; what is outside of -1 to 1 is clipped, but not in
---  32 bits
---@param rate integer   frames per second
---@param opts? { bits: integer }  16 (default), 24, or 32: floating point, for WAV and AIFF; OGG has none
---@return boolean? done  true, or nil and a message
---@return string? message
function audio.save(path, x, rate, opts)
  check.arg("audio.save", "path", path, "string")
  check.arg("audio.save", "x", x, "tensor")
  check.arg("audio.save", "rate", rate, "integer")
  local bits = check.options("audio.save", opts, { { "bits", "integer", 16 } }).bits
  local ending = ENDINGS[path:lower():match "%.(%w+)$"]
  if not ending then
    check.fail("audio.save",
      "the extension is wrong: got '%s', expected a name that ends in .wav, .flac, .ogg or .aiff", path)
  end
  if (bits ~= 16 and bits ~= 24 and bits ~= 32) or bits > MOST_BITS[ending] then
    check.fail("audio.save", "bits is wrong: got %d, expected 16, 24%s", bits, ending == "flac" and "" or " or 32")
  end
  local bytes, message = core.audio_encode(x:dim() == 1 and x:unsqueeze(1) or x, rate, ending, bits)
  if not bytes then return nil, message end
  return core.file_write(path, bytes)
end

--- A sound at another rate: band-limited interpolation, Kaiser-windowed sinc of 16 crossings, side lobes below -90 dB;
--- what lies above 0.93 of the lower Nyquist frequency fades.
--- Source: Smith and Gossett 1984.
---@param x hd.Tensor    [channels, frames] or [frames], f32 or f64
---@param from integer   its rate
---@param to integer     the rate wanted
---@return hd.Tensor sound  f32 [channels, ceil(frames to / from)] or [frames]
function audio.resample(x, from, to)
  check.arg("audio.resample", "x", x, "tensor")
  check.arg("audio.resample", "from", from, "integer")
  check.arg("audio.resample", "to", to, "integer")
  if x:dim() == 1 then return core.audio_resample(x:unsqueeze(1), from, to):squeeze(1) end
  return core.audio_resample(x, from, to)
end

return audio
