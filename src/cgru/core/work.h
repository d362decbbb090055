/* Scratch that grows to what was needed. */
#ifndef CGRU_WORK_H
#define CGRU_WORK_H

#include "cgru/cgru.h"

/* At least so many bytes, aligned, whose contents are anybody's guess; NULL when there is no memory. */
void *cgru_work_reserve(cgru_work *work, size_t bytes);

#endif
