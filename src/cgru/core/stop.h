/* Ends a long call early: the thread that made it asks now and then, and every member of its team learns of it at the
 * same barrier, so that all leave at the same place. */
#ifndef CGRU_STOP_H
#define CGRU_STOP_H

#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

#define ASK_EVERY 0.05     /* seconds between two questions */
#define LOOK_WORK (1 << 22) /* multiply-adds between two looks at the clock: about 70 µs, and a look takes 25 ns */

typedef struct {
    int (*interrupted)(void); /* NULL: nobody asks */
    atomic_int raised;        /* never lowered again */
    double asked;             /* when, by the clock */
    int64_t work;             /* since the last look at the clock */
} cgru_stop;

static inline double cgru_clock(void)
{
    struct timespec now;
    timespec_get(&now, TIME_UTC);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static inline int cgru_stopped(const cgru_stop *stop)
{
    return stop != NULL && atomic_load_explicit(&stop->raised, memory_order_relaxed);
}

/* After so much work by the calling thread, which alone comes here. */
static inline void cgru_stop_ask(cgru_stop *stop, int64_t work)
{
    if (stop == NULL || stop->interrupted == NULL) return;
    stop->work += work;
    if (stop->work < LOOK_WORK) return;
    stop->work = 0;
    double now = cgru_clock(), passed = now - stop->asked;
    if (passed >= 0 && passed < ASK_EVERY) return; /* less than nothing: the clock was set back */
    if (stop->interrupted()) atomic_store_explicit(&stop->raised, 1, memory_order_relaxed);
    stop->asked = cgru_clock();
}

#endif
