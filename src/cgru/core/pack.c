#include "pack.h"

#include <string.h>

#include "memory.h"

static int element_bytes(int precision)
{
    switch (precision) {
    case CGRU_FLOAT32:
        return 4;
    case CGRU_BF16:
    case CGRU_FP16:
        return 2;
    default:
        return 1;
    }
}

static int is_int8(int precision)
{
    return precision == CGRU_INT8 || precision == CGRU_INT8X16;
}

/* Padding must be zero, so that what it contributes is. */
static char *zeroed(size_t bytes)
{
    char *memory = cgru_allocate(bytes);
    if (memory != NULL) memset(memory, 0, bytes);
    return memory;
}

static cgru_matrix shape(const cgru_kernels *kernels, int precision, int out_features, int in_features, int gates)
{
    return (cgru_matrix){.out_features = out_features,
                         .in_features = in_features,
                         .gates = gates,
                         .precision = precision,
                         .panels = (out_features + kernels->vl - 1) / kernels->vl,
                         .planes = precision == CGRU_INT8X16 ? 2 : 1,
                         .arithmetic = kernels->of[precision]};
}

/* Weights, scales and compensation; the bias is laid out by itself. */
static void lay_out_weights(const cgru_kernels *kernels, cgru_matrix *m, cgru_arena *a)
{
    const size_t rows = (size_t)m->panels * m->gates * kernels->vl, group = m->arithmetic->group;
    m->weight = cgru_take(a, rows * ((m->in_features + group - 1) / group * group) * element_bytes(m->precision));
    m->scale = is_int8(m->precision) ? cgru_take(a, rows * sizeof(float)) : NULL;
    m->compensation = is_int8(m->precision) ? cgru_take(a, rows * sizeof(int32_t)) : NULL;
}

/* Gates [first, first + m->gates) of the stacked rows (G·units, inner) ↔ panels. */
static void rearrange(int vl, const cgru_matrix *m, int first, cgru_stored rows, int pack)
{
    const int group = m->arithmetic->group, groups = (m->in_features + group - 1) / group;
    const int size = element_bytes(m->precision);
    for (int p = 0; p < m->panels; p++) {
        for (int k = 0; k < m->in_features; k++) {
            for (int g = 0; g < m->gates; g++) {
                size_t lanes = (((size_t)p * groups + k / group) * m->gates + g) * vl;
                for (int i = 0; i < vl && p * vl + i < m->out_features; i++) {
                    char *held = (char *)m->weight + ((lanes + i) * group + k % group) * size;
                    const size_t row = (size_t)(first + g) * m->out_features + p * vl + i;
                    char *one = (char *)rows.values + (row * m->in_features + k) * size;
                    if (size == 4) memcpy(pack ? held : one, pack ? one : held, 4);
                    else if (size == 2) memcpy(pack ? held : one, pack ? one : held, 2);
                    else *(pack ? held : one) = *(pack ? one : held);
                }
            }
        }
    }
    if (!is_int8(m->precision)) return;
    for (int unit = 0; unit < m->out_features; unit++) {
        for (int g = 0; g < m->gates; g++) {
            size_t from = (size_t)(first + g) * m->out_features + unit;
            size_t to = ((size_t)(unit / vl) * m->gates + g) * vl + unit % vl;
            if (!pack) {
                rows.scale[from] = m->scale[to];
                continue;
            }
            const int8_t *row = (const int8_t *)rows.values + from * m->in_features;
            int32_t sum = 0;
            for (int k = 0; k < m->in_features; k++) sum += row[k];
            m->scale[to] = rows.scale[from];
            m->compensation[to] = (int32_t)((uint32_t)sum * 128u); /* modulo 2^32, as the sums it is taken from */
        }
    }
}

/* bias[panel][g][lane] = a[(first + g)·units + unit] + b[the same], either NULL. */
static void pack_bias(int vl, const cgru_matrix *m, int first, const float *a, const float *b)
{
    for (int unit = 0; unit < m->out_features; unit++) {
        for (int g = 0; g < m->gates; g++) {
            size_t from = (size_t)(first + g) * m->out_features + unit;
            float *to = m->bias + ((size_t)(unit / vl) * m->gates + g) * vl + unit % vl;
            *to = (a ? a[from] : 0.0f) + (b ? b[from] : 0.0f);
        }
    }
}

/* ---- a single matrix ----------------------------------------------------------------------------------------- */

static size_t lay_out_matrix(const cgru_kernels *kernels, cgru_matrix *m, char *memory)
{
    cgru_arena a = {memory, 0};
    cgru_take(&a, sizeof *m);
    lay_out_weights(kernels, m, &a);
    m->bias = cgru_take(&a, (size_t)m->panels * m->gates * kernels->vl * sizeof(float));
    return a.used;
}

size_t cgru_matrix_bytes(const cgru_kernels *kernels, const cgru_matrix *m)
{
    cgru_matrix copy = *m;
    return lay_out_matrix(kernels, &copy, NULL);
}

cgru_matrix *cgru_matrix_new(const cgru_kernels *kernels, int precision, int out_features, int in_features,
                             cgru_stored w, const float *b)
{
    cgru_matrix m = shape(kernels, precision, out_features, in_features, 1);
    char *memory = zeroed(lay_out_matrix(kernels, &m, NULL));
    if (memory == NULL) return NULL;
    lay_out_matrix(kernels, &m, memory);
    rearrange(kernels->vl, &m, 0, w, 1);
    pack_bias(kernels->vl, &m, 0, b, NULL);
    *(cgru_matrix *)memory = m;
    return (cgru_matrix *)memory;
}

void cgru_matrix_weights(const cgru_kernels *kernels, const cgru_matrix *m, cgru_stored w, float *b)
{
    rearrange(kernels->vl, m, 0, w, 0);
    for (int unit = 0; b != NULL && unit < m->out_features; unit++) b[unit] = m->bias[unit];
}

void cgru_matrix_free(cgru_matrix *m)
{
    cgru_release(m);
}

/* ---- one direction of a recurrent layer -------------------------------------------------------------------------- */

static int squashes(int activation)
{
    return activation == CGRU_SIGMOID || activation == CGRU_HARD_SIGMOID || activation == CGRU_HARD_SIGMOID_KERAS2;
}

static cgru_scan scan_shape(const cgru_kernels *kernels, const cgru_cell *cell, const cgru_weights *given)
{
    const int hidden = given->hidden, multiplies = cell->projects || cell->recurrent < cell->gates;
    const int inner = cell->phases > 1 && multiplies ? hidden : 0;
    return (cgru_scan){
        .cell = cell,
        .input = given->input,
        .hidden = hidden,
        .panels = (hidden + kernels->vl - 1) / kernels->vl,
        .out = given->out,
        .x = shape(kernels, given->precision, hidden, given->input, cell->gates),
        .h = shape(kernels, given->precision, hidden, given->out, cell->recurrent),
        .phase1 = shape(kernels, given->precision, given->out, inner, 1),
    };
}

static size_t lay_out_scan(const cgru_kernels *kernels, cgru_scan *scan, char *memory)
{
    const size_t vectors = (size_t)scan->panels * kernels->vl * sizeof(float);
    cgru_arena a = {memory, 0};
    cgru_take(&a, sizeof *scan);
    lay_out_weights(kernels, &scan->h, &a);
    lay_out_weights(kernels, &scan->phase1, &a);
    lay_out_weights(kernels, &scan->x, &a);
    scan->x.bias = cgru_take(&a, vectors * scan->x.gates);
    scan->h.bias = cgru_take(&a, vectors * scan->cell->vectors);
    return a.used;
}

size_t cgru_scan_bytes(const cgru_kernels *kernels, const cgru_scan *scan)
{
    cgru_scan copy = *scan;
    return lay_out_scan(kernels, &copy, NULL);
}

/* The matrices ↔ the arrays they came from. */
static void rearrange_scan(int vl, const cgru_scan *scan, cgru_stored w_ih, cgru_stored w_hh, cgru_stored w_hr, int pack)
{
    rearrange(vl, &scan->x, 0, w_ih, pack);
    if (scan->h.gates > 0) rearrange(vl, &scan->h, 0, w_hh, pack);
    if (scan->phase1.in_features == 0) return;
    if (scan->cell->projects) rearrange(vl, &scan->phase1, 0, w_hr, pack);
    else rearrange(vl, &scan->phase1, scan->cell->recurrent, w_hh, pack);
}

cgru_scan *cgru_scan_new(const cgru_kernels *kernels, const cgru_cell *cell, int activation, int recurrent_activation,
                         const cgru_weights *given)
{
    const int vl = kernels->vl, hidden = given->hidden, gates = cell->gates, vectors = cell->vectors;
    cgru_scan scan = scan_shape(kernels, cell, given);
    char *memory = zeroed(lay_out_scan(kernels, &scan, NULL));
    if (memory == NULL) return NULL;
    lay_out_scan(kernels, &scan, memory);
    scan.activation = activation;
    scan.recurrent_activation = recurrent_activation;
    scan.bounded = cell->bounded && squashes(recurrent_activation) &&
                   (squashes(activation) || activation == CGRU_TANH || activation == CGRU_SOFTSIGN);
    rearrange_scan(vl, &scan, given->w_ih, given->w_hh, given->w_hr, 1);
    pack_bias(vl, &scan.x, 0, given->b_ih, given->b_hh);
    const float *from = given->w_ph;
    if (cell->separate_candidate_bias) {
        const size_t last = (size_t)(gates - 1) * hidden;
        from = given->b_hh ? given->b_hh + last : NULL;
        for (int unit = 0; unit < hidden; unit++)
            scan.x.bias[((size_t)(unit / vl) * gates + gates - 1) * vl + unit % vl] =
                given->b_ih ? given->b_ih[last + unit] : 0.0f;
    }
    cgru_matrix per_unit = {.out_features = hidden, .gates = vectors, .panels = scan.panels, .bias = scan.h.bias};
    pack_bias(vl, &per_unit, 0, from, NULL);
    *(cgru_scan *)memory = scan;
    return (cgru_scan *)memory;
}

void cgru_scan_weights(const cgru_kernels *kernels, const cgru_scan *scan, cgru_stored w_ih, cgru_stored w_hh,
                       cgru_stored w_hr)
{
    rearrange_scan(kernels->vl, scan, w_ih, w_hh, w_hr, 0);
}

void cgru_scan_free(cgru_scan *scan)
{
    cgru_release(scan);
}

/* ---- a table ------------------------------------------------------------------------------------------------------ */

/* A finite half. Below 2^-14 it has no exponent: a whole number of 2^-24. */
static float half(uint16_t bits)
{
    uint32_t magnitude = bits & 0x7fffu, sign = (uint32_t)(bits & 0x8000u) << 16, made;
    float value = (float)magnitude * 0x1p-24f;
    memcpy(&made, &value, 4);
    if (magnitude >= 0x400) made = (magnitude << 13) + (112u << 23);
    made |= sign;
    memcpy(&value, &made, 4);
    return value;
}

void cgru_table_row(int precision, cgru_stored table, int64_t row, int n, float *to)
{
    const size_t start = (size_t)row * n;
    if (precision == CGRU_FLOAT32) {
        memcpy(to, (const float *)table.values + start, (size_t)n * sizeof(float));
    } else if (precision == CGRU_BF16) {
        const uint16_t *from = (const uint16_t *)table.values + start;
        for (int i = 0; i < n; i++) {
            uint32_t bits = (uint32_t)from[i] << 16;
            memcpy(to + i, &bits, 4);
        }
    } else if (precision == CGRU_FP16) {
        const uint16_t *from = (const uint16_t *)table.values + start;
        for (int i = 0; i < n; i++) to[i] = half(from[i]);
    } else {
        const int8_t *from = (const int8_t *)table.values + start;
        for (int i = 0; i < n; i++) to[i] = (float)from[i] * table.scale[row];
    }
}
