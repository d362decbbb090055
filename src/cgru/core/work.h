/* What every call needs first: sound rows, and scratch that grows to what was needed. */
#ifndef CGRU_WORK_H
#define CGRU_WORK_H

#include "cgru/cgru.h"

/* Whether each row of a call has a row of the state, and a length, where there are any, within the steps. */
static inline int cgru_check_rows(int64_t rows, int64_t steps, const int64_t *lengths, const int64_t *index,
                                  int64_t state_rows)
{
    if (!index && rows > state_rows) return CGRU_BAD_INDEX;
    for (int64_t r = 0; index && r < rows; r++) {
        if (index[r] < 0 || index[r] >= state_rows) return CGRU_BAD_INDEX;
    }
    for (int64_t r = 0; lengths && r < rows; r++) {
        if (lengths[r] < 0 || lengths[r] > steps) return CGRU_BAD_LENGTH;
    }
    return CGRU_OK;
}

/* At least so many bytes, aligned, whose contents are anybody's guess; NULL when there is no memory. */
void *cgru_work_reserve(cgru_work *work, size_t bytes);

/* Calls that step come again and again with the same sizes: such a call leaves its plan at the beginning of the memory, and
 * here the serial of the network that it is for; 0 where there is none, as after cgru_work_reserve. */
unsigned long long *cgru_work_planned(cgru_work *work);
/* The memory as it is. */
void *cgru_work_memory(cgru_work *work);

#endif
