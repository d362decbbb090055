/* Kernels of the reduced precisions, on a product that each defines before it includes this:
 *
 * product##G(m, v, n, p0, panels, out): sums over the inner dimension for n rows, scales applied, added to a base;
 * prepare_row(m, v, range, to): a row as product wants it, where PREPARES; range 0: found in the row.
 *
 * There is one instance of each product for all cells, and what a tile ends with is in its `out`. */

#include <string.h>

/* Rows [r0, r0 + n) as product takes them. */
INLINE void gather(cgru_prepared quantized_input, const float *const *rows, int r0, int n, const void **v)
{
    for (int r = 0; r < n; r++) {
        const char *quantized = quantized_input.memory + (r0 + r) * quantized_input.stride;
        v[r] = PREPARES ? (const void *)quantized : rows[r0 + r];
    }
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

INLINE void prepare_rows(const cgru_matrix *m, int n, const float *const *v, cgru_prepared quantized_input)
{
    for (int r = 0; PREPARES && r < n; r++) prepare_row(m, v[r], 0.0f, quantized_input.memory + r * quantized_input.stride);
}

INLINE void linear_sums(float *sums, const cgru_matrix *m, const linear_rows *rows, int r0, int n, int p0, int panels)
{
    const void *v[TILE_ROWS] = {NULL};
    tile_out to = {.step = VL};
    gather(rows->quantized_input, rows->v, r0, n, v);
    for (int r = 0; r < n; r++) {
        to.base[r] = m->bias + p0 * VL;
        to.sums[r] = sums + r * panels * VL;
    }
    product1(m, v, n, p0, panels, &to);
}

INLINE void project_tile(const int G, const cgru_matrix *m, const linear_rows *rows, int r0, int n, int p0, int panels)
{
    const void *v[TILE_ROWS] = {NULL};
    tile_out to = {.step = G * VL};
    gather(rows->quantized_input, rows->v, r0, n, v);
    for (int r = 0; r < n; r++) {
        to.base[r] = m->bias + p0 * G * VL;
        to.sums[r] = rows->out[r0 + r] + p0 * G * VL;
    }
    product(G, m, v, n, p0, panels, &to);
}

#include "linear.h"

/* ---- one step of a cell -------------------------------------------------------------------------------------------- */

INLINE const float *vector_of(const cgru_scan *scan, const cgru_rows *rows, const enum source source, int r)
{
    return source == STATE ? rows->h[r] : source == CELL_STATE ? rows->cell_state[r] : operand(scan, rows, r);
}

INLINE void prepare(const cgru_scan *scan, const cgru_matrix *m, const enum source source, const cgru_rows *rows)
{
    for (int r = 0; PREPARES && source != NOTHING && r < rows->n; r++)
        prepare_row(m, vector_of(scan, rows, source, r), scan->bounded ? rows->range[r] : 0.0f,
                    rows->quantized_input.memory + r * rows->quantized_input.stride);
}

INLINE void gather_step(const cgru_scan *scan, const cgru_rows *rows, const enum source source, int r0, int n,
                        const void **v)
{
    for (int r = 0; r < n; r++)
        v[r] = PREPARES ? (const void *)(rows->quantized_input.memory + (r0 + r) * rows->quantized_input.stride)
                        : vector_of(scan, rows, source, r0 + r);
}

INLINE void gate_sums(const int G, const int gates, const int first, float *sums, const cgru_scan *scan,
                     const cgru_matrix *m, const enum source source, const cgru_rows *rows, int r0, int n, int p0,
                     int panels)
{
    const void *v[TILE_ROWS] = {NULL};
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
    const void *v[TILE_ROWS] = {NULL};
    tile_out to = {.step = 3 * VL, .separate_candidate_bias = scan->h.bias + p0 * VL};
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
    const void *v[TILE_ROWS] = {NULL};
    tile_out to = {.step = 0};
    gather_step(scan, rows, OPERAND, r0, n, v);
    for (int r = 0; r < n; r++) to.sums[r] = sums + r * panels * VL;
    product1(&scan->phase1, v, n, p0, panels, &to);
}

static ptrdiff_t panel_bytes(const cgru_matrix *m)
{
    return (ptrdiff_t)m->in_features * m->gates * VL * ELEMENT;
}

#include "cell_steps.h"
