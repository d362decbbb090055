#include "pack.h"

#include <string.h>

#include "memory.h"

/* Gates [first, first + m->gates) of the stacked rows (G·units, inner) ↔ panels. */
static void rearrange(int vl, const cgru_matrix *m, int first, float *rows, int pack)
{
    for (int p = 0; p < m->panels; p++) {
        for (int k = 0; k < m->inner; k++) {
            for (int g = 0; g < m->gates; g++) {
                float *lanes = m->weight + (((size_t)p * m->inner + k) * m->gates + g) * vl;
                for (int i = 0; i < vl && p * vl + i < m->units; i++) {
                    float *one = rows + ((size_t)(first + g) * m->units + p * vl + i) * m->inner + k;
                    if (pack) lanes[i] = *one;
                    else *one = lanes[i];
                }
            }
        }
    }
}

/* bias[panel][g][lane] = a[(first + g)·units + unit] + b[the same], either NULL. */
static void pack_bias(int vl, const cgru_matrix *m, int first, const float *a, const float *b)
{
    for (int unit = 0; unit < m->units; unit++) {
        for (int g = 0; g < m->gates; g++) {
            size_t from = (size_t)(first + g) * m->units + unit;
            float *to = m->bias + ((size_t)(unit / vl) * m->gates + g) * vl + unit % vl;
            *to = (a ? a[from] : 0.0f) + (b ? b[from] : 0.0f);
        }
    }
}

static size_t weight_floats(int vl, const cgru_matrix *m)
{
    return (size_t)m->panels * m->inner * m->gates * vl;
}

static cgru_matrix shape(int vl, int units, int inner, int gates)
{
    return (cgru_matrix){units, inner, gates, (units + vl - 1) / vl, NULL, NULL};
}

static size_t line(size_t bytes)
{
    return (bytes + CGRU_ALIGN - 1) / CGRU_ALIGN * CGRU_ALIGN;
}

/* Padding must be zero, so that what it contributes is. */
static char *zeroed(size_t bytes)
{
    char *memory = cgru_allocate(bytes);
    if (memory != NULL) memset(memory, 0, bytes);
    return memory;
}

/* ---- a single matrix ----------------------------------------------------------------------------------------- */

size_t cgru_matrix_bytes(const cgru_kernels *kernels, const cgru_matrix *m)
{
    return line(sizeof *m) + (weight_floats(kernels->vl, m) + (size_t)m->panels * m->gates * kernels->vl) * sizeof(float);
}

cgru_matrix *cgru_matrix_new(const cgru_kernels *kernels, int units, int inner, const float *w, const float *b)
{
    cgru_matrix m = shape(kernels->vl, units, inner, 1);
    char *memory = zeroed(cgru_matrix_bytes(kernels, &m));
    if (memory == NULL) return NULL;
    m.weight = (float *)(memory + line(sizeof m));
    m.bias = m.weight + weight_floats(kernels->vl, &m);
    rearrange(kernels->vl, &m, 0, (float *)w, 1);
    pack_bias(kernels->vl, &m, 0, b, NULL);
    *(cgru_matrix *)memory = m;
    return (cgru_matrix *)memory;
}

void cgru_matrix_weights(const cgru_kernels *kernels, const cgru_matrix *m, float *w, float *b)
{
    rearrange(kernels->vl, m, 0, w, 0);
    for (int unit = 0; b != NULL && unit < m->units; unit++) b[unit] = m->bias[unit];
}

void cgru_matrix_free(cgru_matrix *m)
{
    cgru_release(m);
}

/* ---- one direction of a recurrent layer -------------------------------------------------------------------------- */

static cgru_scan scan_shape(int vl, const cgru_cell *cell, const cgru_weights *given)
{
    const int hidden = given->hidden, multiplies = cell->projects || cell->recurrent < cell->gates;
    return (cgru_scan){
        .cell = cell,
        .input = given->input,
        .hidden = hidden,
        .panels = (hidden + vl - 1) / vl,
        .out = given->out,
        .x = shape(vl, hidden, given->input, cell->gates),
        .h = shape(vl, hidden, given->out, cell->recurrent),
        .second = shape(vl, given->out, cell->phases > 1 && multiplies ? hidden : 0, 1),
    };
}

size_t cgru_scan_bytes(const cgru_kernels *kernels, const cgru_scan *scan)
{
    int vl = kernels->vl;
    size_t floats = weight_floats(vl, &scan->x) + weight_floats(vl, &scan->h) + weight_floats(vl, &scan->second);
    return line(sizeof *scan) + (floats + (size_t)scan->panels * (scan->x.gates + scan->cell->vectors) * vl) * sizeof(float);
}

/* The matrices ↔ the arrays they came from. */
static void rearrange_scan(int vl, const cgru_scan *scan, float *w_ih, float *w_hh, float *w_hr, int pack)
{
    rearrange(vl, &scan->x, 0, w_ih, pack);
    if (scan->h.gates > 0) rearrange(vl, &scan->h, 0, w_hh, pack);
    if (scan->second.inner == 0) return;
    if (scan->cell->projects) rearrange(vl, &scan->second, 0, w_hr, pack);
    else rearrange(vl, &scan->second, scan->cell->recurrent, w_hh, pack);
}

cgru_scan *cgru_scan_new(const cgru_kernels *kernels, const cgru_cell *cell, int activation, int recurrent_activation,
                         const cgru_weights *given)
{
    const int vl = kernels->vl, hidden = given->hidden, gates = cell->gates, vectors = cell->vectors;
    cgru_scan scan = scan_shape(vl, cell, given);
    char *memory = zeroed(cgru_scan_bytes(kernels, &scan));
    if (memory == NULL) return NULL;
    scan.activation = activation;
    scan.recurrent_activation = recurrent_activation;
    scan.h.weight = (float *)(memory + line(sizeof scan));
    scan.second.weight = scan.h.weight + weight_floats(vl, &scan.h);
    scan.x.weight = scan.second.weight + weight_floats(vl, &scan.second);
    scan.x.bias = scan.x.weight + weight_floats(vl, &scan.x);
    scan.h.bias = scan.x.bias + (size_t)scan.panels * gates * vl;
    rearrange_scan(vl, &scan, (float *)given->w_ih, (float *)given->w_hh, (float *)given->w_hr, 1);
    pack_bias(vl, &scan.x, 0, given->b_ih, given->b_hh);
    const float *from = given->w_ph;
    if (cell->apart) {
        const size_t last = (size_t)(gates - 1) * hidden;
        from = given->b_hh ? given->b_hh + last : NULL;
        for (int unit = 0; unit < hidden; unit++)
            scan.x.bias[((size_t)(unit / vl) * gates + gates - 1) * vl + unit % vl] =
                given->b_ih ? given->b_ih[last + unit] : 0.0f;
    }
    cgru_matrix per_unit = {hidden, 0, vectors, scan.panels, NULL, scan.h.bias};
    pack_bias(vl, &per_unit, 0, from, NULL);
    *(cgru_scan *)memory = scan;
    return (cgru_scan *)memory;
}

void cgru_scan_weights(const cgru_kernels *kernels, const cgru_scan *scan, float *w_ih, float *w_hh, float *w_hr)
{
    rearrange_scan(kernels->vl, scan, w_ih, w_hh, w_hr, 0);
}

void cgru_scan_free(cgru_scan *scan)
{
    cgru_release(scan);
}
