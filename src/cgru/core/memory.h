/* Aligned memory that asks for huge pages where it is large enough for them to matter. */
#ifndef CGRU_MEMORY_H
#define CGRU_MEMORY_H

#include <stddef.h>

#define CGRU_ALIGN 64 /* a cache line, and the widest vector */

/* NULL when there is no memory. Free with cgru_release. */
void *cgru_allocate(size_t bytes);
void cgru_release(void *memory);

/* Memory measured and laid out by one and the same walk: with at NULL it only counts. */
typedef struct {
    char *at;
    size_t used;
} cgru_arena;

void *cgru_take(cgru_arena *a, size_t bytes);

#endif
