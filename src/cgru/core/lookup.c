/* An embedding before a recurrence: what the input side makes of every token, worked out once, so that a step reads a row
 * of this table in place of a matrix. The products are those of a step, in the same order, so the bits stay. */
#include "lookup.h"

#include "fpmode.h"
#include "memory.h"

ptrdiff_t cgru_lookup_width(const cgru_kernels *kernels, const cgru_scan *scan)
{
    return (ptrdiff_t)scan->panels * scan->x.gates * kernels->vl;
}

int cgru_lookup_fill(const cgru_kernels *kernels, const cgru_scan *scan, const float *embedding, int64_t tokens, float *to)
{
    const cgru_arithmetic *arithmetic = scan->x.arithmetic;
    const size_t bytes = arithmetic->prepared ? arithmetic->prepared(&scan->x) : 0;
    const ptrdiff_t width = cgru_lookup_width(kernels, scan);
    char *memory = cgru_allocate(bytes + CGRU_ALIGN);
    if (memory == NULL) return CGRU_NO_MEMORY;
    const cgru_prepared room = {bytes ? memory : NULL, (ptrdiff_t)bytes};
    const cgru_fpmode mode = cgru_flush_subnormals();
    for (int64_t token = 0; token < tokens; token++) {
        const float *x = embedding + token * scan->input;
        float *row = to + token * width;
        arithmetic->project(&scan->x, 1, &x, &row, room, 0, scan->panels);
    }
    cgru_restore_fpmode(mode);
    cgru_release(memory);
    return CGRU_OK;
}
