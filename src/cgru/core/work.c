#include "work.h"

#include <stdlib.h>

#include "memory.h"

struct cgru_work {
    void *memory;
    size_t bytes;
    unsigned long long planned;
};

cgru_work *cgru_work_new(void)
{
    return calloc(1, sizeof(cgru_work));
}

size_t cgru_work_bytes(const cgru_work *work)
{
    return work->bytes;
}

void cgru_work_free(cgru_work *work)
{
    if (work != NULL) cgru_release(work->memory);
    free(work);
}

void *cgru_work_reserve(cgru_work *work, size_t bytes)
{
    work->planned = 0;
    if (work->bytes >= bytes) return work->memory;
    cgru_release(work->memory);
    work->bytes = 0;
    work->memory = cgru_allocate(bytes);
    if (work->memory != NULL) work->bytes = bytes;
    return work->memory;
}

unsigned long long *cgru_work_planned(cgru_work *work)
{
    return &work->planned;
}

void *cgru_work_memory(cgru_work *work)
{
    return work->memory;
}
