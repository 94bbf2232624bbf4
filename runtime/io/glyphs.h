// io/glyphs.h: letters as rectangles, for text in charts.
// Layer: io. Calls: stb_easy_font. Called by: bind (core.text_boxes).
#ifndef HD_GLYPHS_H
#define HD_GLYPHS_H

// The strokes of one line of text at scale 1: {left, top, right, bottom} each, right and bottom outside, origin at the
// line's top left. Anything but printable ASCII becomes '?'. Returns the number of boxes, at most `capacity`, and the
// text's width; a line is 12 high, capitals 7.
int hd_text_boxes(const char *text, int (*boxes)[4], int capacity, int *width);

enum { HD_GLYPH_BOXES = 16 }; // at most, of one letter

#endif
