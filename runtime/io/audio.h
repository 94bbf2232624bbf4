// io/audio.h: WAV, FLAC, OGG and AIFF in and out, behind limits, and other sampling rates.
// libsndfile decodes and encodes; it is loaded at first use, so that nothing else needs it. It is shown only files that
// begin like one of the four formats. What a header claims is not believed: memory grows with what is really decoded.
// Threads: call from one at a time.
#ifndef HD_AUDIO_H
#define HD_AUDIO_H

#include "io/file.h"
#include <stdint.h>

#define HD_AUDIO_FILE_CAP ((size_t)256 << 20)  // bytes of a file
#define HD_AUDIO_VALUE_CAP ((int64_t)64 << 20) // frames x channels
#define HD_AUDIO_CHANNEL_CAP 64
#define HD_AUDIO_RATE_CAP 1000000

typedef struct {
    int rate, channels; // rate: frames per second
    int64_t frames;
    float *samples; // channels interleaved, full scale is -1 to 1; from hd_alloc
} hd_audio;

void hd_audio_free(hd_audio *audio); // leaves it empty

// `where` begins the message; on failure *out is empty. Sounds without frames or with values that are not finite are
// refused.
hd_status hd_audio_decode(const char *where, const unsigned char *bytes, size_t size, hd_audio *out);
hd_status hd_audio_read(const char *path, hd_audio *out);

// The bytes of a file. ending: "wav", "flac", "ogg" (Vorbis) or "aiff"; bits: 16 or 24, or 32 (float) for wav and aiff,
// not looked at for ogg. Whole numbers clip what is outside of full scale.
hd_status hd_audio_encode(const hd_audio *audio, const char *ending, int bits, hd_bytes *out);

// Frames that `frames` at rate `from` become at rate `to`.
int64_t hd_audio_resampled(int64_t frames, int from, int to);
// One channel at another rate: band-limited interpolation with a Kaiser-windowed sinc; silence beyond the ends.
// out: room for hd_audio_resampled(frames, from, to). Source: Smith and Gossett 1984.
hd_status hd_audio_resample(const float *in, int64_t frames, int from, int to, float *out);

#endif
