// io/image.h: PNG and JPEG in, PNG out, behind limits.
// stb_image decodes; before it sees a byte, the structure of the file is walked: for PNG signature, order, lengths and
// checksums of all chunks, for JPEG the segments up to the end marker. Size claims that the file's length cannot back
// are refused, so memory stays in proportion to the file or to 64 megapixels.
// Sizes are those of the stored pixels (no EXIF rotation); 16-bit samples give their high byte.
#ifndef HD_IMAGE_H
#define HD_IMAGE_H

#include "io/file.h"

#define HD_IMAGE_FILE_CAP ((size_t)64 << 20)  // bytes of a file
#define HD_IMAGE_PIXEL_CAP ((size_t)64 << 20) // width x height
#define HD_IMAGE_SIDE_CAP 16384

typedef struct {
    int width, height, channels; // 1 grey, 2 grey+alpha, 3 RGB, 4 RGBA
    unsigned char *pixels;       // rows from the top, channels interleaved; from hd_alloc
} hd_image;

void hd_image_free(hd_image *image); // leaves it empty

// channels: 0 as stored, else 1 to 4 (RGB -> grey by luma; alpha dropped or set to 255, never composited).
// `where` begins the message; on failure *out is empty.
hd_status hd_image_decode(const char *where, const unsigned char *bytes, size_t size, int channels, hd_image *out);
hd_status hd_image_read(const char *path, int channels, hd_image *out);

// The bytes of a PNG file; the same picture gives the same bytes.
hd_status hd_image_encode(const hd_image *image, hd_bytes *out);

// The largest middle part of the shape out_width : out_height, resized.
hd_status hd_image_cover(const hd_image *image, int out_width, int out_height, hd_image *out);

#endif
