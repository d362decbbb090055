/* Scratch that grows to what was needed. */
#ifndef CGRU_WORK_H
#define CGRU_WORK_H

#include "cgru/cgru.h"

/* At least so many bytes, aligned, whose contents are anybody's guess; NULL when there is no memory. */
void *cgru_work_reserve(cgru_work *work, size_t bytes);

/* For which network the memory is laid out, by its serial; 0 where it is for none, as after cgru_work_reserve. */
unsigned long long *cgru_work_planned(cgru_work *work);
/* The memory as it is. */
void *cgru_work_memory(cgru_work *work);

#endif
