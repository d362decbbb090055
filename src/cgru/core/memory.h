/* Aligned memory that asks for huge pages where it is large enough for them to matter. */
#ifndef CGRU_MEMORY_H
#define CGRU_MEMORY_H

#include <stddef.h>

#define CGRU_ALIGN 64 /* a cache line, and the widest vector */

/* NULL when there is no memory. Free with cgru_release. */
void *cgru_allocate(size_t bytes);
void cgru_release(void *memory);

#endif
