// bind/bind_preview.c: core.preview_*, behind hd.preview.
// Layer: bind. Calls: preview, core. Called by: lib/hd/preview.lua, which checks what users pass.
#include "bind/bind.h"

#include "preview/preview.h"

#define PREVIEW_NAME "hd.PreviewHandle"

typedef struct {
    hd_preview *preview; // NULL once closed
} handle;

static handle *check_handle(lua_State *L) { return hd_check_object(L, 1, PREVIEW_NAME); }

// preview_open(title) -> handle, or nil and the reason.
static int l_preview_open(lua_State *L) {
    const char *title = hd_check_string(L, 1, NULL);
    handle *h = lua_newuserdatauv(L, sizeof *h, 0);
    h->preview = NULL;
    luaL_setmetatable(L, PREVIEW_NAME);
    return hd_preview_open(title, &h->preview) == HD_OK ? 1 : hd_return_failure(L);
}

// preview_show(handle, {{name=, image=tensor or nil}, ...}) -> boolean: is there still a window?
static int l_preview_show(lua_State *L) {
    handle *h = check_handle(L);
    hd_preview_column columns[HD_PREVIEW_COLUMNS] = {{0}};
    hd_check_table(L, 2);
    const int count = (int)lua_rawlen(L, 2);
    if (count > HD_PREVIEW_COLUMNS)
        return hd_raisef(L, "preview.show: too many columns: got %d, expected at most %d", count, HD_PREVIEW_COLUMNS);
    for (int i = 0; i < count; i++) {
        lua_geti(L, 2, i + 1);
        lua_getfield(L, -1, "name");
        lua_getfield(L, -2, "image");
        columns[i].name = hd_check_string(L, lua_gettop(L) - 1, NULL); // the list keeps both alive
        if (!lua_isnil(L, -1))
            columns[i].pictures = hd_tensor_as_view(hd_check_tensor(L, lua_gettop(L)));
        lua_pop(L, 3);
    }
    if (h->preview && hd_preview_show(h->preview, columns, count) != HD_OK)
        return hd_raise(L);
    lua_pushboolean(L, h->preview && hd_preview_is_open(h->preview));
    return 1;
}

// preview_text(handle, text)
static int l_preview_text(lua_State *L) {
    handle *h = check_handle(L);
    const char *text = hd_check_string(L, 2, NULL);
    if (h->preview)
        hd_preview_text(h->preview, text);
    return 0;
}

static void push_event(lua_State *L, const hd_preview_event *event) {
    static const char *const names[] = {
        [HD_PREVIEW_KEY] = "key",         [HD_PREVIEW_SAVE] = "save",       [HD_PREVIEW_PAUSED] = "paused",
        [HD_PREVIEW_RESUMED] = "resumed", [HD_PREVIEW_RESIZED] = "resized", [HD_PREVIEW_CLOSED] = "closed"};
    lua_createtable(L, 0, 3);
    lua_pushstring(L, names[event->kind]);
    lua_setfield(L, -2, "kind");
    if (event->kind == HD_PREVIEW_KEY) {
        lua_pushstring(L, event->text);
        lua_setfield(L, -2, "key");
    } else if (event->kind == HD_PREVIEW_RESIZED) {
        lua_pushinteger(L, event->width);
        lua_setfield(L, -2, "width");
        lua_pushinteger(L, event->height);
        lua_setfield(L, -2, "height");
    }
}

// preview_poll(handle) -> {{kind=, key=, width=, height=}, ...}, oldest first.
static int l_preview_poll(lua_State *L) {
    handle *h = check_handle(L);
    hd_preview_event event;
    lua_newtable(L);
    for (int n = 1; h->preview && hd_preview_poll(h->preview, &event); n++) {
        push_event(L, &event);
        lua_seti(L, -2, n);
    }
    return 1;
}

// preview_is_open(handle) -> boolean
static int l_preview_is_open(lua_State *L) {
    handle *h = check_handle(L);
    lua_pushboolean(L, h->preview && hd_preview_is_open(h->preview));
    return 1;
}

// preview_close(handle); also its finalizer.
static int l_preview_close(lua_State *L) {
    handle *h = check_handle(L);
    hd_preview *preview = h->preview;
    h->preview = NULL;
    hd_preview_close(preview);
    return 0;
}

void hd_bind_preview(lua_State *L) {
    static const luaL_Reg functions[] = {{"preview_open", l_preview_open},
                                         {"preview_show", l_preview_show},
                                         {"preview_text", l_preview_text},
                                         {"preview_poll", l_preview_poll},
                                         {"preview_is_open", l_preview_is_open},
                                         {"preview_close", l_preview_close},
                                         {NULL, NULL}};
    luaL_newmetatable(L, PREVIEW_NAME);
    lua_pushcfunction(L, l_preview_close);
    lua_setfield(L, -2, "__gc");
    lua_pop(L, 1);
    luaL_setfuncs(L, functions, 0);
}
