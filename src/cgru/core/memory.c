#if defined(__linux__)
#define _GNU_SOURCE
#endif
#include "memory.h"

#include <stdint.h>
#include <stdlib.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(_WIN32)
#include <malloc.h>
#endif

#define HUGE_PAGE ((size_t)2 << 20)

void *cgru_allocate(size_t bytes)
{
    /* Below one huge page the alignment would waste more than the pages save (measured: 3-6 % of a batch-1 step
     * whose weights fill several). */
    size_t align = bytes >= HUGE_PAGE ? HUGE_PAGE : CGRU_ALIGN;
    if (bytes > SIZE_MAX - align) return NULL;
    size_t rounded = (bytes + CGRU_ALIGN - 1) / CGRU_ALIGN * CGRU_ALIGN;
    if (rounded == 0) rounded = CGRU_ALIGN;
    void *memory;
#if defined(_WIN32)
    memory = _aligned_malloc(rounded, align);
    if (memory == NULL) return NULL;
#else
    if (posix_memalign(&memory, align, rounded) != 0) return NULL;
#endif
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (align == HUGE_PAGE) madvise(memory, rounded, MADV_HUGEPAGE); /* advice: refused, nothing is lost */
#endif
    return memory;
}

void cgru_release(void *memory)
{
#if defined(_WIN32)
    _aligned_free(memory);
#else
    free(memory);
#endif
}

void *cgru_take(cgru_arena *a, size_t bytes)
{
    void *memory = a->at ? a->at + a->used : NULL;
    a->used += (bytes + CGRU_ALIGN - 1) / CGRU_ALIGN * CGRU_ALIGN;
    return memory;
}
