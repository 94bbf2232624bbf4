// io/shapes.c: discs, squares, triangles, stars and rings with soft edges; plain, striped, dotted or shaded.
// Layer: io. Called by: bind_data.c. Threads: any.
// Coordinates: the picture spans [-1,1] x [-1,1], y down. A shape is a signed distance, negative inside; a pixel's
// coverage falls from 1 to 0 over one pixel around distance 0.
#include "io/shapes.h"
#include "core/rng.h"
#include "io/resample.h"
#include <math.h>

typedef struct {
    double r, g, b;
} colour;

typedef struct {
    int kind, texture; // texture: 0 plain, 1 stripes, 2 dots, 3 shaded from edge to edge
    double x, y, radius, cos_a, sin_a;
    colour first, second;
    double period, tilt_cos, tilt_sin; // of the texture
} shape;

// The j-th number in [0,1) of picture i.
static double draw(uint64_t seed, int64_t i, uint32_t j) {
    uint32_t word[4];
    hd_philox(seed, hd_rng_mix(0x73686170, (uint64_t)i), j, word);
    return hd_unit_f64(word[0], word[1]);
}

// Hue in turns, saturation and value in [0,1].
static colour from_hsv(double hue, double saturation, double value) {
    double rgb[3];
    for (int c = 0; c < 3; c++) {
        double h = fmod(hue + (3 - c) / 3.0, 1) * 6; // distance on the wheel from each primary
        double part = h < 1 || h > 5 ? 1 : h < 2 ? 2 - h : h > 4 ? h - 4 : 0;
        rgb[c] = value * (1 - saturation * (1 - part));
    }
    return (colour){rgb[0], rgb[1], rgb[2]};
}

static shape make(uint64_t seed, int64_t i) {
    const double tau = 6.283185307179586;
    shape s = {.kind = (int)(draw(seed, i, 0) * HD_SHAPE_KINDS), .texture = (int)(draw(seed, i, 1) * 4)};
    s.radius = 0.5 + 0.3 * draw(seed, i, 2);
    double room = 0.92 - s.radius, turn = tau * draw(seed, i, 5), tilt = tau * draw(seed, i, 10);
    s.x = room * (2 * draw(seed, i, 3) - 1);
    s.y = room * (2 * draw(seed, i, 4) - 1);
    s.cos_a = cos(turn);
    s.sin_a = sin(turn);
    double hue = draw(seed, i, 6), other = hue + 0.08 + 0.34 * draw(seed, i, 7);
    s.first = from_hsv(hue, 0.65 + 0.3 * draw(seed, i, 8), 0.75 + 0.25 * draw(seed, i, 9));
    s.second = from_hsv(other, 0.45 + 0.4 * draw(seed, i, 11), draw(seed, i, 12) < 0.5 ? 0.45 : 1.0);
    s.period = 0.26 + 0.2 * draw(seed, i, 13);
    s.tilt_cos = cos(tilt);
    s.tilt_sin = sin(tilt);
    return s;
}

// Distance to a regular star of five points: fold the plane into one tenth, then measure to its only edge.
static double star(double x, double y, double radius) {
    const double fold = 3.141592653589793 / 5, inner = 0.5; // inner radius as a share of the outer one
    double angle = fmod(fabs(atan2(x, -y)), 2 * fold), length = hypot(x, y);
    if (angle > fold)
        angle = 2 * fold - angle;
    double px = length * sin(angle), py = length * cos(angle);
    double ex = inner * radius * sin(fold), ey = inner * radius * cos(fold) - radius; // edge from (0, radius)
    double qx = px, qy = py - radius, t = (qx * ex + qy * ey) / (ex * ex + ey * ey);
    t = t < 0 ? 0 : t > 1 ? 1 : t;
    double distance = hypot(qx - t * ex, qy - t * ey);
    return qx * ey - qy * ex > 0 ? -distance : distance;
}

static double distance_to(const shape *s, double x, double y) {
    double r = s->radius;
    switch (s->kind) {
    case 0:
        return hypot(x, y) - r;
    case 1: { // rounded corners
        double side = 0.78 * r, round = 0.12 * r, dx = fabs(x) - side + round, dy = fabs(y) - side + round;
        return hypot(fmax(dx, 0), fmax(dy, 0)) + fmin(fmax(dx, dy), 0) - round;
    }
    case 2:
        return fmax(y, fmax(-0.5 * y + 0.8660254 * x, -0.5 * y - 0.8660254 * x)) - 0.55 * r;
    case 3:
        return star(x, y, 1.1 * r);
    default:
        return fabs(hypot(x, y) - 0.74 * r) - 0.26 * r;
    }
}

static double soft_step(double distance, double width) {
    double v = 0.5 - distance / width;
    return v < 0 ? 0 : v > 1 ? 1 : v;
}

// Share of the second colour at (x, y); `pixel` is a pixel's side.
static double texture_at(const shape *s, double x, double y, double pixel) {
    double u = x * s->tilt_cos + y * s->tilt_sin, v = y * s->tilt_cos - x * s->tilt_sin, p = s->period;
    switch (s->texture) {
    case 1:
        return soft_step(fabs(u - p * floor(u / p) - p / 2) - p / 4, pixel);
    case 2:
        return soft_step(hypot(u - p * floor(u / p) - p / 2, v - p * floor(v / p) - p / 2) - 0.3 * p, pixel);
    case 3:
        return soft_step(u, 2.4 * s->radius);
    default:
        return 0;
    }
}

int hd_shape_draw(uint64_t seed, int64_t i, int size, uint8_t *out) {
    shape s = make(seed, i);
    double pixel = 2.0 / size;
    int64_t plane = (int64_t)size * size;
    for (int row = 0; row < size; row++)
        for (int column = 0; column < size; column++) {
            double dx = (column + 0.5) * pixel - 1 - s.x, dy = (row + 0.5) * pixel - 1 - s.y;
            double x = dx * s.cos_a + dy * s.sin_a, y = dy * s.cos_a - dx * s.sin_a;
            double inside = soft_step(distance_to(&s, x, y), pixel), part = texture_at(&s, x, y, pixel);
            double light = 1 - 0.12 * (dx + dy); // from the upper left
            const double first[3] = {s.first.r, s.first.g, s.first.b}, second[3] = {s.second.r, s.second.g, s.second.b};
            for (int c = 0; c < 3; c++) {
                double ink = fmin((first[c] + (second[c] - first[c]) * part) * light, 1);
                out[c * plane + (int64_t)row * size + column] = hd_round_byte(255 * (1 + (ink - 1) * inside));
            }
        }
    return s.kind;
}
