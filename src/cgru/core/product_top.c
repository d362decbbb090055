/* The largest numbers of a product with a tall matrix, which is never stored whole: blocks of outputs go into a buffer
 * that stays in cache, and what is among the largest so far is kept. */
#include <stdlib.h>

#include "fpmode.h"
#include "memory.h"
#include "net.h"
#include "search.h"

#define BLOCK_OUTPUTS 2048
#define BLOCK_ROWS 32

int cgru_product_top(const cgru_kernels *kernels, const cgru_matrix *m, int64_t rows, const float *x, ptrdiff_t x_row,
                     ptrdiff_t k, float *values, int64_t *items)
{
    const int panels = BLOCK_OUTPUTS / kernels->vl, most = rows < BLOCK_ROWS ? (int)rows : BLOCK_ROWS;
    const size_t stride = cgru_prepared_bytes(m), floats = (size_t)most * BLOCK_OUTPUTS * sizeof(float);
    char *memory = cgru_allocate(floats + (size_t)most * stride + 1);
    if (memory == NULL) return CGRU_NO_MEMORY;
    float *block = (float *)memory, *out[BLOCK_ROWS];
    const float *in[BLOCK_ROWS];
    const cgru_prepared room = {stride ? memory + floats : NULL, (ptrdiff_t)stride};
    const cgru_fpmode mode = cgru_flush_subnormals();
    for (int64_t first = 0; first < rows; first += most) {
        const int n = rows - first < most ? (int)(rows - first) : most;
        ptrdiff_t held = 0, after = 0;
        for (int p = 0; p < m->panels; p += panels) {
            const int end = p + panels < m->panels ? p + panels : m->panels;
            const int64_t from = (int64_t)p * kernels->vl;
            const int64_t to = (int64_t)end * kernels->vl < m->out_features ? (int64_t)end * kernels->vl : m->out_features;
            for (int r = 0; r < n; r++) {
                in[r] = x + (first + r) * x_row;
                out[r] = block + (ptrdiff_t)r * BLOCK_OUTPUTS - from; /* the kernel counts outputs from the matrix' first */
            }
            m->arithmetic->linear(m, CGRU_LINEAR, n, in, out, room, p, end);
            for (int r = 0; r < n; r++) {
                after = cgru_keep_top(block + (ptrdiff_t)r * BLOCK_OUTPUTS, to - from, from, k, values + (first + r) * k,
                                      items + (first + r) * k, held);
            }
            held = after;
        }
    }
    cgru_restore_fpmode(mode);
    cgru_release(memory);
    return CGRU_OK;
}
