// tests/fuzz/fuzz_audio.c: WAV, FLAC, OGG and AIFF, decoded, resampled and written again.
#include "fuzz.h"
#include "io/audio.h"

static void one_input(const uint8_t *data, size_t size) {
    hd_audio audio;
    if (hd_audio_decode("input", data, size, &audio) != HD_OK)
        return;
    const int64_t frames = audio.frames < 1000 ? audio.frames : 1000;
    float *out = hd_alloc((size_t)hd_audio_resampled(frames, 3, 2) * sizeof *out);
    if (!out || hd_audio_resample(audio.samples, frames, 3, 2, out) != HD_OK)
        abort();
    hd_free(out);
    hd_bytes file;
    audio.frames = frames / audio.channels;
    if (audio.frames && audio.channels <= 8 && audio.rate <= 48000) {
        if (hd_audio_encode(&audio, "wav", 16, &file) != HD_OK)
            abort();
        hd_bytes_free(&file);
    }
    hd_audio_free(&audio);
}
