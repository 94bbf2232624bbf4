// io/audio.c: sound files through libsndfile, and resampling.
// Layer: io. Called by: bind_audio.c. Threads: one at a time.
#include "io/audio.h"
#include "core/alloc.h"
#include <dlfcn.h>
#include <math.h>
#include <sndfile.h>
#include <stdbool.h>
#include <string.h>

// libsndfile -----------------------------------------------------------------

static struct {
    SNDFILE *(*open)(SF_VIRTUAL_IO *, int, SF_INFO *, void *);
    sf_count_t (*read)(SNDFILE *, float *, sf_count_t);
    sf_count_t (*write)(SNDFILE *, const float *, sf_count_t);
    int (*command)(SNDFILE *, int, void *, int);
    int (*close)(SNDFILE *);
    const char *(*error)(SNDFILE *);
} library;

static hd_status load_library(const char *where) {
    static const char *const names[] = {"libsndfile.so.1", "libsndfile.1.dylib", "libsndfile.so", NULL};
    if (library.open)
        return HD_OK;
    void *handle = NULL;
    for (int i = 0; names[i] && !handle; i++)
        handle = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    static const char *const symbols[] = {"sf_open_virtual", "sf_readf_float", "sf_writef_float",
                                          "sf_command",      "sf_close",       "sf_strerror"};
    void *found[6];
    for (int i = 0; i < 6; i++)
        if (!handle || !(found[i] = dlsym(handle, symbols[i])))
            return hd_fail(HD_EIO, "%s: libsndfile is missing: got '%s'.\n  hint: install libsndfile1.", where,
                           dlerror());
    memcpy(&library, found, sizeof library); // the order of the struct is that of the names
    return HD_OK;
}

// A file in memory: `read` bytes to read from, or `written` to write to.
typedef struct {
    const unsigned char *read;
    hd_bytes written;
    size_t capacity, size, at;
    bool failed; // no memory left to write to
} stream;

static sf_count_t stream_length(void *user) { return (sf_count_t)((stream *)user)->size; }
static sf_count_t stream_tell(void *user) { return (sf_count_t)((stream *)user)->at; }

static sf_count_t stream_seek(sf_count_t offset, int whence, void *user) {
    stream *s = user;
    const sf_count_t base = whence == SEEK_SET ? 0 : (sf_count_t)(whence == SEEK_CUR ? s->at : s->size);
    if (offset < -base || offset > (sf_count_t)HD_AUDIO_FILE_CAP)
        return -1;
    s->at = (size_t)(base + offset);
    return base + offset;
}

static sf_count_t stream_read(void *to, sf_count_t count, void *user) {
    stream *s = user;
    const size_t left = s->at < s->size ? s->size - s->at : 0, n = (size_t)count < left ? (size_t)count : left;
    if (n)
        memcpy(to, s->read ? s->read + s->at : s->written.data + s->at, n);
    s->at += n;
    return (sf_count_t)n;
}

static sf_count_t stream_write(const void *from, sf_count_t count, void *user) {
    stream *s = user;
    const size_t end = s->at + (size_t)count;
    s->failed = s->failed || s->read || hd_bytes_reserve(&s->written, &s->capacity, end) != HD_OK;
    if (s->failed)
        return 0;
    if (s->at > s->size)
        memset(s->written.data + s->size, 0, s->at - s->size);
    memcpy(s->written.data + s->at, from, (size_t)count);
    s->at = end;
    s->size = s->written.size = end > s->size ? end : s->size;
    return count;
}

static SF_VIRTUAL_IO stream_functions = {stream_length, stream_seek, stream_read, stream_write, stream_tell};

// Reading --------------------------------------------------------------------

void hd_audio_free(hd_audio *audio) {
    hd_free(audio->samples);
    *audio = (hd_audio){0};
}

static bool begins(const unsigned char *bytes, size_t size, const char *magic, const char *kind) {
    return size >= 12 && memcmp(bytes, magic, 4) == 0 && (!kind || memcmp(bytes + 8, kind, 4) == 0);
}

static bool is_known(const unsigned char *b, size_t n) {
    return begins(b, n, "RIFF", "WAVE") || begins(b, n, "RIFX", "WAVE") || begins(b, n, "RF64", "WAVE") ||
           begins(b, n, "fLaC", NULL) || begins(b, n, "OggS", NULL) || begins(b, n, "FORM", "AIFF") ||
           begins(b, n, "FORM", "AIFC");
}

static hd_status check_info(const char *where, const SF_INFO *info) {
    if (info->channels < 1 || info->channels > HD_AUDIO_CHANNEL_CAP)
        return hd_fail(HD_EFORMAT, "%s: the number of channels is wrong: got %d, expected 1 to %d", where,
                       info->channels, HD_AUDIO_CHANNEL_CAP);
    if (info->samplerate < 1 || info->samplerate > HD_AUDIO_RATE_CAP)
        return hd_fail(HD_EFORMAT, "%s: the sampling rate is wrong: got %d, expected 1 to %d", where, info->samplerate,
                       HD_AUDIO_RATE_CAP);
    return HD_OK;
}

#define BLOCK 16384 // values read at a time

// All frames that there are, whatever the header says.
static hd_status read_frames(const char *where, SNDFILE *file, int channels, hd_bytes *all) {
    size_t capacity = 0;
    for (;;) {
        if ((int64_t)(all->size / sizeof(float)) > HD_AUDIO_VALUE_CAP)
            return hd_fail(HD_EFORMAT, "%s: the sound is too long: expected at most %lld values in all channels", where,
                           (long long)HD_AUDIO_VALUE_CAP);
        HD_CHECK(hd_bytes_reserve(all, &capacity, all->size + BLOCK * sizeof(float)));
        const sf_count_t n = library.read(file, (float *)(void *)(all->data + all->size), BLOCK / channels);
        if (n <= 0)
            return HD_OK;
        all->size += (size_t)n * (size_t)channels * sizeof(float);
    }
}

static hd_status check_values(const char *where, const float *x, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(x[i]))
            return hd_fail(HD_EFORMAT, "%s: value %lld is not finite: got %g", where, (long long)i + 1, (double)x[i]);
    return HD_OK;
}

hd_status hd_audio_decode(const char *where, const unsigned char *bytes, size_t size, hd_audio *out) {
    *out = (hd_audio){0};
    if (!is_known(bytes, size))
        return hd_fail(HD_EFORMAT, "%s: not a sound: expected a WAV, FLAC, OGG or AIFF file", where);
    HD_CHECK(load_library(where));
    stream s = {.read = bytes, .size = size};
    SF_INFO info = {0};
    SNDFILE *file = library.open(&stream_functions, SFM_READ, &info, &s);
    if (!file)
        return hd_fail(HD_EFORMAT, "%s: bad sound file: %s", where, library.error(NULL));
    hd_bytes all = {0};
    hd_status status = check_info(where, &info);
    if (status == HD_OK)
        status = read_frames(where, file, info.channels, &all);
    library.close(file);
    const int64_t values = (int64_t)(all.size / sizeof(float));
    if (status == HD_OK && values == 0)
        status = hd_fail(HD_EFORMAT, "%s: the sound is empty: got 0 frames", where);
    if (status == HD_OK)
        status = check_values(where, (const float *)(const void *)all.data, values);
    if (status != HD_OK) {
        hd_bytes_free(&all);
        return status;
    }
    *out = (hd_audio){info.samplerate, info.channels, values / info.channels, (float *)(void *)all.data};
    return HD_OK;
}

hd_status hd_audio_read(const char *path, hd_audio *out) {
    *out = (hd_audio){0};
    hd_bytes file;
    HD_CHECK(hd_file_read(path, HD_AUDIO_FILE_CAP, &file));
    char where[512];
    snprintf(where, sizeof where, "'%s'", path);
    hd_status status = hd_audio_decode(where, file.data, file.size, out);
    hd_bytes_free(&file);
    return status;
}

// Writing --------------------------------------------------------------------

static int format_of(const char *ending, int bits) {
    const int pcm = bits == 24 ? SF_FORMAT_PCM_24 : SF_FORMAT_PCM_16;
    if (strcmp(ending, "ogg") == 0)
        return SF_FORMAT_OGG | SF_FORMAT_VORBIS;
    if (strcmp(ending, "flac") == 0)
        return SF_FORMAT_FLAC | pcm;
    return (strcmp(ending, "wav") == 0 ? SF_FORMAT_WAV : SF_FORMAT_AIFF) | (bits == 32 ? SF_FORMAT_FLOAT : pcm);
}

hd_status hd_audio_encode(const hd_audio *audio, const char *ending, int bits, hd_bytes *out) {
    *out = (hd_bytes){0};
    HD_CHECK(load_library("audio.save"));
    HD_CHECK(check_values("audio.save", audio->samples, audio->frames * audio->channels));
    stream s = {0};
    SF_INFO info = {.samplerate = audio->rate, .channels = audio->channels, .format = format_of(ending, bits)};
    SNDFILE *file = library.open(&stream_functions, SFM_WRITE, &info, &s);
    if (!file)
        return hd_fail(HD_EARG, "audio.save: a sound of %d channels at rate %d cannot be written as %s: %s",
                       audio->channels, audio->rate, ending, library.error(NULL));
    library.command(file, SFC_SET_CLIPPING, NULL, SF_TRUE);
    library.command(file, SFC_SET_ADD_PEAK_CHUNK, NULL, SF_FALSE); // it holds the time: equal sounds, equal files
    sf_count_t done = 0;
    while (done < audio->frames && !s.failed) { // in blocks: Vorbis keeps a whole one on the stack
        const sf_count_t left = audio->frames - done, n = left < 4096 ? left : 4096;
        if (library.write(file, audio->samples + done * audio->channels, n) != n)
            break;
        done += n;
    }
    library.close(file);
    if (done == audio->frames && !s.failed) {
        *out = s.written;
        return HD_OK;
    }
    hd_bytes_free(&s.written);
    return s.failed ? hd_fail(HD_ENOMEM, "audio.save: out of memory")
                    : hd_fail(HD_EIO, "audio.save: only %lld of %lld frames were encoded", (long long)done,
                              (long long)audio->frames);
}

// Other rates ----------------------------------------------------------------

#define CROSSINGS 16 // of the sinc on either side
#define STEPS 1024   // of the table between two of them
#define BETA 9.0     // of Kaiser's window: side lobes below -90 dB
#define ROLLOFF 0.93 // the pass band, as a share of the lower Nyquist frequency

// Modified Bessel function of order 0.
static double bessel(double x) {
    double sum = 1, term = 1;
    for (int k = 1; term > 1e-12 * sum; k++) {
        term *= x / (2 * k) * (x / (2 * k));
        sum += term;
    }
    return sum;
}

// sinc(u) under its window at u = i / STEPS, and zeros behind.
static void fill_table(double *table) {
    for (int i = 0; i <= CROSSINGS * STEPS + 1; i++) {
        const double u = (double)i / STEPS, edge = u / CROSSINGS;
        const double sinc = i ? sin(M_PI * u) / (M_PI * u) : 1;
        table[i] = edge < 1 ? sinc * bessel(BETA * sqrt(1 - edge * edge)) / bessel(BETA) : 0;
    }
}

int64_t hd_audio_resampled(int64_t frames, int from, int to) { return (frames * to + from - 1) / from; }

hd_status hd_audio_resample(const float *in, int64_t frames, int from, int to, float *out) {
    double *table = hd_alloc((CROSSINGS * STEPS + 2) * sizeof *table);
    if (!table)
        return hd_fail(HD_ENOMEM, "audio.resample: out of memory");
    fill_table(table);
    const double cut = ROLLOFF * (to < from ? (double)to / from : 1), reach = CROSSINGS / cut;
    const int64_t count = hd_audio_resampled(frames, from, to);
    for (int64_t i = 0; i < count; i++) {
        const double at = (double)i * from / to;
        const int64_t first = at > reach ? (int64_t)ceil(at - reach) : 0, last = (int64_t)floor(at + reach);
        double sum = 0;
        for (int64_t k = first; k <= last && k < frames; k++) {
            const double u = fabs(at - (double)k) * cut * STEPS;
            const int64_t j = (int64_t)u < CROSSINGS * STEPS ? (int64_t)u : CROSSINGS * STEPS;
            sum += in[k] * (table[j] + (u - (double)j) * (table[j + 1] - table[j]));
        }
        out[i] = (float)(sum * cut);
    }
    hd_free(table);
    return HD_OK;
}
