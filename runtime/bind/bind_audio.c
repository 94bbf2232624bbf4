// bind/bind_audio.c: sounds for lib/hd/audio.lua: tensors [channels, frames].
// Layer: bind. Calls: io/audio.c. Failures of the world give nil and a message; misuse raises.
// What a function holds in C lies in a resource on the Lua stack until it is done.
#include "bind/bind.h"
#include "bind/resource.h"
#include "core/alloc.h"
#include "io/audio.h"

static void free_audio(void *p) { hd_audio_free(p); }
static void free_bytes(void *p) { hd_bytes_free(p); }

static float *floats_of(const hd_tensor *x) { return hd_tensor_as_view(x).data; }

// A fresh tensor [c, t] on the stack, or an error. [-0, +1, raises]
static hd_tensor *push_sound(lua_State *L, int64_t channels, int64_t frames) {
    const int64_t shape[2] = {channels, frames};
    hd_collect_if_due(L);
    hd_tensor **box = hd_push_box(L);
    if (hd_new_tensor(L, HD_F32, 2, shape, HD_ROW_MAJOR, box) != HD_OK)
        hd_raise(L);
    return *box;
}

// core.audio_load(path) -> tensor f32 [channels, frames], rate
static int l_audio_load(lua_State *L) {
    const char *path = hd_check_string(L, 1, NULL);
    hd_audio *audio = hd_push_resource(L, sizeof *audio, free_audio);
    const int at = lua_gettop(L);
    if (HD_RETRY(L, hd_audio_read(path, audio)) != HD_OK)
        return hd_return_failure(L);
    float *x = floats_of(push_sound(L, audio->channels, audio->frames));
    for (int c = 0; c < audio->channels; c++)
        for (int64_t t = 0; t < audio->frames; t++)
            x[c * audio->frames + t] = audio->samples[t * audio->channels + c];
    lua_pushinteger(L, audio->rate);
    hd_release_resource(L, at);
    lua_insert(L, -2);
    hd_box_done(L);
    lua_insert(L, -2);
    return 2;
}

// The sound at `arg`, f32 or f64 [c, t].
static hd_view check_sound(lua_State *L, int arg, const char *where) {
    const hd_tensor *x = hd_check_tensor(L, arg);
    if (x->ndim != 2 || x->shape[0] < 1 || x->shape[0] > HD_AUDIO_CHANNEL_CAP || x->shape[1] < 1 ||
        x->shape[1] > HD_AUDIO_VALUE_CAP / x->shape[0] || (x->dtype != HD_F32 && x->dtype != HD_F64))
        hd_raisef(L, "%s: the sound is wrong: got %s %s, expected f32 [channels,frames], 1 to %d channels, not empty",
                  where, hd_dtype_name(x->dtype), hd_tensor_text(x), HD_AUDIO_CHANNEL_CAP);
    return hd_tensor_as_view(x);
}

static int check_rate(lua_State *L, int arg, const char *where) {
    const int64_t rate = hd_check_int(L, arg);
    if (rate < 1 || rate > HD_AUDIO_RATE_CAP)
        hd_raisef(L, "%s: the sampling rate is wrong: got %lld, expected 1 to %d", where, (long long)rate,
                  HD_AUDIO_RATE_CAP);
    return (int)rate;
}

static void place(const hd_view *v, int64_t channel, int64_t step, float *to) {
    for (int64_t t = 0; t < v->shape[1]; t++)
        to[t * step] = (float)hd_load(v->data, v->dtype, channel * v->strides[0] + t * v->strides[1]);
}

// Floats that a resource owns. [-0, +1, raises]
static float *push_floats(lua_State *L, int64_t count) {
    hd_bytes *bytes = hd_push_resource(L, sizeof *bytes, free_bytes);
    size_t capacity = 0;
    if (HD_RETRY(L, hd_bytes_reserve(bytes, &capacity, (size_t)count * sizeof(float))) != HD_OK)
        hd_raise(L);
    return (float *)(void *)bytes->data;
}

// core.audio_encode(x, rate, ending, bits) -> string, the bytes of a file; nil and a message
static int l_audio_encode(lua_State *L) {
    const hd_view v = check_sound(L, 1, "audio.save");
    hd_audio audio = {check_rate(L, 2, "audio.save"), (int)v.shape[0], v.shape[1], NULL};
    const char *ending = hd_check_string(L, 3, NULL);
    const int bits = (int)hd_check_int(L, 4);
    audio.samples = push_floats(L, v.shape[0] * v.shape[1]);
    for (int64_t c = 0; c < v.shape[0]; c++)
        place(&v, c, v.shape[0], audio.samples + c);
    hd_bytes *file = hd_push_resource(L, sizeof *file, free_bytes);
    const int at = lua_gettop(L);
    if (HD_RETRY(L, hd_audio_encode(&audio, ending, bits, file)) != HD_OK)
        return hd_return_failure(L);
    lua_pushlstring(L, (const char *)file->data, file->size);
    hd_release_resource(L, at);
    hd_release_resource(L, at - 1);
    return 1;
}

// core.audio_resample(x, from, to) -> tensor f32 [channels, frames]
static int l_audio_resample(lua_State *L) {
    const hd_view v = check_sound(L, 1, "audio.resample");
    const int from = check_rate(L, 2, "audio.resample"), to = check_rate(L, 3, "audio.resample");
    const int64_t frames = hd_audio_resampled(v.shape[1], from, to);
    if (frames > HD_AUDIO_VALUE_CAP / v.shape[0])
        return hd_raisef(L, "audio.resample: the sound would be too long: got %lld frames, expected at most %lld",
                         (long long)frames, (long long)(HD_AUDIO_VALUE_CAP / v.shape[0]));
    float *channel = push_floats(L, v.shape[1]);
    const int at = lua_gettop(L);
    float *out = floats_of(push_sound(L, v.shape[0], frames));
    for (int64_t c = 0; c < v.shape[0]; c++) {
        place(&v, c, 1, channel);
        if (hd_audio_resample(channel, v.shape[1], from, to, out + c * frames) != HD_OK)
            return hd_raise(L);
    }
    hd_release_resource(L, at);
    return hd_box_done(L);
}

void hd_bind_audio(lua_State *L) {
    static const luaL_Reg functions[] = {{"audio_load", l_audio_load},
                                         {"audio_encode", l_audio_encode},
                                         {"audio_resample", l_audio_resample},
                                         {NULL, NULL}};
    luaL_setfuncs(L, functions, 0);
}
