/* Kernels of the reduced precisions, on a product that each defines before it includes this:
 *
 * product##G(m, v, n, p0, panels, out): sums over the inner dimension for n rows, scales applied, added to a base;
 * prepare_row(m, v, range, to): a row as product wants it, where PREPARES; range 0: found in the row.
 *
 * There is one instance of each product for all cells, and what a tile ends with is in its `out`. */

#include <string.h>

/* Rows [r0, r0 + n) as product takes them. */
INLINE void gather(cgru_prepared room, const float *const *rows, int r0, int n, const void **v)
{
    for (int r = 0; r < n; r++) v[r] = PREPARES ? (const void *)(room.memory + (r0 + r) * room.stride) : rows[r0 + r];
}

INLINE void product(const int G, const cgru_matrix *m, const void *const *v, int n, int p0, int panels,
                    const tile_out *out)
{
    switch (G) {
    case 1:
        product1(m, v, n, p0, panels, out);
        break;
    case 2:
        product2(m, v, n, p0, panels, out);
        break;
    case 3:
        product3(m, v, n, p0, panels, out);
        break;
    default:
        product4(m, v, n, p0, panels, out);
    }
}

/* ---- dense layers and input projections -------------------------------------------------------------------------- */

typedef struct {
    int activation;
    const float *const *v;
    float *const *out;
    cgru_prepared room;
} linear_rows;

INLINE void prepare_rows(const cgru_matrix *m, int n, const float *const *v, cgru_prepared room)
{
    for (int r = 0; PREPARES && r < n; r++) prepare_row(m, v[r], 0.0f, room.memory + r * room.stride);
}

static void linear_tile(const void *what, const void *given, int r0, int n, int p0, int panels)
{
    const cgru_matrix *m = what;
    const linear_rows *rows = given;
    const void *v[TILE_ROWS];
    float sums[MOST_SUMS * VL];
    tile_out to = {.step = VL};
    gather(rows->room, rows->v, r0, n, v);
    for (int r = 0; r < n; r++) {
        to.base[r] = m->bias + p0 * VL;
        to.sums[r] = sums + r * panels * VL;
    }
    product1(m, v, n, p0, panels, &to);
    for (int r = 0; r < n; r++) {
        for (int p = 0; p < panels; p++) {
            int unit = (p0 + p) * VL, left = m->units - unit;
            vec y = v_activate(rows->activation, v_load(sums + (r * panels + p) * VL));
            if (left >= VL) v_store(rows->out[r0 + r] + unit, y);
            else v_store_part(rows->out[r0 + r] + unit, y, left);
        }
    }
}

static void NAME(cgru_linear)(const cgru_matrix *m, int activation, int n, const float *const *v, float *const *out,
                              cgru_prepared room, int p0, int p1)
{
    linear_rows rows = {activation, v, out, room};
    prepare_rows(m, n, v, room);
    each_tile(linear_tile, m, &rows, 1, planes_of(m), n, p0, p1, 0, 0);
}

INLINE void project_tile(const int G, const cgru_matrix *m, const linear_rows *rows, int r0, int n, int p0, int panels)
{
    const void *v[TILE_ROWS];
    tile_out to = {.step = G * VL};
    gather(rows->room, rows->v, r0, n, v);
    for (int r = 0; r < n; r++) {
        to.base[r] = m->bias + p0 * G * VL;
        to.sums[r] = rows->out[r0 + r] + p0 * G * VL;
    }
    product(G, m, v, n, p0, panels, &to);
}

#define PROJECT_TILE(G)                                                                                                \
    static void project##G##_tile(const void *what, const void *given, int r0, int n, int p0, int panels)              \
    {                                                                                                                  \
        project_tile(G, what, given, r0, n, p0, panels);                                                               \
    }
PROJECT_TILE(1)
PROJECT_TILE(2)
PROJECT_TILE(3)
PROJECT_TILE(4)

static void NAME(cgru_project)(const cgru_matrix *m, int n, const float *const *v, float *const *out, cgru_prepared room,
                               int p0, int p1)
{
    static tile_function *const tiles[] = {project1_tile, project2_tile, project3_tile, project4_tile};
    linear_rows rows = {CGRU_LINEAR, v, out, room};
    prepare_rows(m, n, v, room);
    switch (m->gates) {
    case 1:
        each_tile(tiles[0], m, &rows, 1, planes_of(m), n, p0, p1, 0, 0);
        break;
    case 2:
        each_tile(tiles[1], m, &rows, 2, planes_of(m), n, p0, p1, 0, 0);
        break;
    case 3:
        each_tile(tiles[2], m, &rows, 3, planes_of(m), n, p0, p1, 0, 0);
        break;
    default:
        each_tile(tiles[3], m, &rows, 4, planes_of(m), n, p0, p1, 0, 0);
    }
}

/* ---- one step of a cell -------------------------------------------------------------------------------------------- */

INLINE const float *vector_of(const cgru_scan *scan, const cgru_rows *rows, const enum source source, int r)
{
    return source == STATE ? rows->h[r] : source == OWN ? rows->own[r] : operand(scan, rows, r);
}

INLINE void prepare(const cgru_scan *scan, const cgru_matrix *m, const enum source source, const cgru_rows *rows)
{
    for (int r = 0; PREPARES && source != NOTHING && r < rows->n; r++)
        prepare_row(m, vector_of(scan, rows, source, r), scan->bounded ? rows->range[r] : 0.0f,
                    rows->room.memory + r * rows->room.stride);
}

INLINE void gather_step(const cgru_scan *scan, const cgru_rows *rows, const enum source source, int r0, int n,
                        const void **v)
{
    for (int r = 0; r < n; r++)
        v[r] = PREPARES ? (const void *)(rows->room.memory + (r0 + r) * rows->room.stride)
                        : vector_of(scan, rows, source, r0 + r);
}

INLINE void complete(const int G, const int gates, const int first, float *sums, const cgru_scan *scan,
                     const cgru_matrix *m, const enum source source, const cgru_rows *rows, int r0, int n, int p0,
                     int panels)
{
    const void *v[TILE_ROWS];
    tile_out to = {.step = gates * VL};
    for (int r = 0; r < n; r++) {
        to.base[r] = rows->proj[r0 + r] + (p0 * gates + first) * VL;
        to.sums[r] = sums + r * panels * G * VL;
    }
    if (m) {
        gather_step(scan, rows, source, r0, n, v);
        product(G, m, v, n, p0, panels, &to);
    } else {
        for (int r = 0; r < n; r++) memcpy(to.sums[r], to.base[r], (size_t)(panels * G * VL) * sizeof(float));
    }
}

INLINE void gru_after_sums(float *sums, float *candidate, const cgru_scan *scan, const cgru_rows *rows, int r0, int n,
                           int p0, int panels)
{
    const void *v[TILE_ROWS];
    tile_out to = {.step = 3 * VL, .apart = scan->h.bias + p0 * VL};
    gather_step(scan, rows, STATE, r0, n, v);
    for (int r = 0; r < n; r++) {
        to.base[r] = rows->proj[r0 + r] + p0 * 3 * VL;
        to.sums[r] = sums + r * panels * 3 * VL;
        for (int p = 0; p < panels; p++)
            v_store(candidate + (r * panels + p) * VL, v_load(to.base[r] + (p * 3 + 2) * VL));
    }
    product3(&scan->h, v, n, p0, panels, &to);
}

INLINE void projection_sums(float *sums, const cgru_scan *scan, const cgru_rows *rows, int r0, int n, int p0, int panels)
{
    const void *v[TILE_ROWS];
    tile_out to = {.step = 0};
    gather_step(scan, rows, OPERAND, r0, n, v);
    for (int r = 0; r < n; r++) to.sums[r] = sums + r * panels * VL;
    product1(&scan->second, v, n, p0, panels, &to);
}

static ptrdiff_t panel_bytes(const cgru_matrix *m)
{
    return (ptrdiff_t)m->inner * m->gates * VL * ELEMENT;
}

#include "cell_steps.h"
