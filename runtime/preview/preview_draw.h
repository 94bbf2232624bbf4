// preview/preview_draw.h: what the preview window shows, drawn into plain memory; knows nothing of SDL.
#ifndef HD_PREVIEW_DRAW_H
#define HD_PREVIEW_DRAW_H

#include "preview/preview_link.h"

typedef struct {
    uint32_t *pixels; // 0x00RRGGBB, row-major without gaps
    int width, height;
} hd_canvas;

typedef struct {
    const char *text; // the training's line or lines
    const char *note; // a word in front of it in the accent colour ("paused"), or NULL
} hd_preview_status;

// Height in pixels of the status bar at the canvas's lower edge.
int hd_draw_status_height(const hd_canvas *canvas, const hd_preview_status *status);
void hd_draw_status(const hd_canvas *canvas, const hd_preview_status *status);

// Everything above the status bar: a labelled grid per column, or column `only` (1-based; 0: all) alone.
void hd_draw_frame(const hd_canvas *canvas, const hd_preview_frame *frame, int only, int status_height);

#endif
