/* A small pool of our own. GNU OpenMP would do this in one line, but hangs a forked child, spins for milliseconds after
 * every region, and answers a call every 10 ms in anything from 34 µs to 6 ms.
 *
 * Workers sleep on a condition variable between calls: an idle process uses no processor time. Within a call the members
 * wait for each other at barriers that spin, since a step takes microseconds, and yield when that takes long, since the
 * other may not be running. Where yielding lets other programs run they sleep instead: one that yields comes last among all
 * that want the processor, one that is woken among the first (a call of 120 barriers beside ten busy programs: 430 ms, and
 * 20 asleep). */
#if defined(__linux__)
#define _GNU_SOURCE
#endif
#include "team.h"

#if defined(_WIN32)

/* Not threaded on Windows yet: every call runs in the thread that made it. */
void cgru_team_run(int size, cgru_task *task, void *what)
{
    (void)size;
    task(what, cgru_alone);
}
int cgru_team_wait(cgru_member member)
{
    return cgru_stopped(member.stop);
}
cgru_member cgru_team_split(cgru_member member, int parts, int *part)
{
    (void)parts;
    *part = 0;
    return member;
}
cgru_member cgru_team_part(cgru_member member, int first, int count)
{
    (void)first, (void)count;
    return member;
}

#else

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <time.h>

#define SPINS 200 /* before a waiting member begins to yield: about five microseconds */
#define OTHERS_RAN 50000 /* nanoseconds that a yield takes only where something else has run */
#define CROWDED_FOR 200000000 /* nanoseconds after such a yield in which no member tries another */

struct cgru_barrier {
    _Alignas(64) atomic_int arrived;
    atomic_int generation;
};

typedef struct {
    cgru_task *task;
    void *what;
    int processor; /* the caller's, where that can be told; else -1 */
    _Alignas(64) atomic_int working; /* workers that have not finished */
    cgru_barrier barriers[CGRU_TEAM_DEPTH * CGRU_MAX_TEAM]; /* those of a depth, by their first members */
} team;

typedef struct worker {
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    team *team; /* NULL while there is nothing to do */
    cgru_member member;
    struct worker *next;
} worker;

/* Idle workers. A worker in use is on nobody's list. */
static struct {
    pthread_mutex_t mutex;
    worker *idle;
    int prepared;
} pool = {PTHREAD_MUTEX_INITIALIZER, NULL, 0};

static inline void pause_a_little(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* ---- waiting -------------------------------------------------------------------------------------------------------- */

/* Where those sleep that wait on a crowded machine, for whatever it is. */
static struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    atomic_int sleepers;
    atomic_llong crowded; /* until when, by the clock */
} rest = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0};

static long long nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (long long)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Either the sleeper sees the new value, or who has changed it the sleeper: both go by one order of all (seq_cst). */
static void sleep_until_change(atomic_int *word, int value)
{
    pthread_mutex_lock(&rest.mutex);
    atomic_fetch_add(&rest.sleepers, 1);
    while (atomic_load(word) == value) pthread_cond_wait(&rest.changed, &rest.mutex);
    atomic_fetch_sub(&rest.sleepers, 1);
    pthread_mutex_unlock(&rest.mutex);
}

/* After a change (seq_cst) of what others may wait for. */
static void wake_sleepers(void)
{
    if (atomic_load(&rest.sleepers) == 0) return;
    pthread_mutex_lock(&rest.mutex);
    pthread_cond_broadcast(&rest.changed);
    pthread_mutex_unlock(&rest.mutex);
}

static void wait_for_change(atomic_int *word, int value)
{
    for (int turns = 0; turns < SPINS; turns++) {
        if (atomic_load_explicit(word, memory_order_acquire) != value) return;
        pause_a_little();
    }
    while (atomic_load_explicit(word, memory_order_acquire) == value) {
        const long long before = nanoseconds();
        if (before < atomic_load_explicit(&rest.crowded, memory_order_relaxed)) {
            sleep_until_change(word, value);
            return;
        }
        sched_yield();
        const long long after = nanoseconds();
        if (after - before > OTHERS_RAN)
            atomic_store_explicit(&rest.crowded, after + CROWDED_FOR, memory_order_relaxed);
    }
}

/* The last to come settles for all whether the call ends here: a generation is twice its number, plus one if so. */
int cgru_team_wait(cgru_member member)
{
    if (member.size == 1) return cgru_stopped(member.stop);
    cgru_barrier *barrier = member.barrier;
    int generation = atomic_load_explicit(&barrier->generation, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&barrier->arrived, 1, memory_order_acq_rel) + 1 == member.size) {
        const int next = (int)((((unsigned)generation | 1u) + 1u) | (unsigned)cgru_stopped(member.stop));
        atomic_store_explicit(&barrier->arrived, 0, memory_order_relaxed);
        atomic_store(&barrier->generation, next);
        wake_sleepers();
        return next & 1;
    }
    wait_for_change(&barrier->generation, generation);
    return atomic_load_explicit(&barrier->generation, memory_order_acquire) & 1;
}

cgru_member cgru_team_split(cgru_member member, int parts, int *part)
{
    if (member.size == 1) {
        *part = 0;
        return member;
    }
    int p = 0, first = 0, end = member.size / parts;
    while (end <= member.rank) {
        p++;
        first = end;
        end = (int)((long long)member.size * (p + 1) / parts);
    }
    *part = p;
    return cgru_team_part(member, first, end - first);
}

/* A part has the barrier that stands as far behind that of its team as its first member is behind the team's, a depth on: no
 * two of any depth have the same. */
cgru_member cgru_team_part(cgru_member member, int first, int count)
{
    if (member.size == 1) return member;
    return (cgru_member){member.rank - first, count, member.barrier + CGRU_MAX_TEAM + first, member.stop};
}

#if defined(__linux__)
static int processor(void)
{
    return sched_getcpu();
}

/* A kernel that does not know which processors share a cache, as in many virtual machines, wakes a worker on the very
 * processor its caller keeps busy, and leaves it there for milliseconds. It then asks to be elsewhere, once, and takes
 * its choice of processors back at once (a call of ten steps every 10 ms: 1410 µs without this, 450 to 650 with it). */
static void leave_cpu(int busy)
{
    cpu_set_t allowed, others;
    if (busy < 0 || processor() != busy || sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
    others = allowed;
    CPU_CLR(busy, &others);
    if (CPU_COUNT(&others) == 0) return;
    sched_setaffinity(0, sizeof others, &others);
    sched_setaffinity(0, sizeof allowed, &allowed);
}
#else
static int processor(void)
{
    return -1;
}
static void leave_cpu(int busy)
{
    (void)busy;
}
#endif

static void *work(void *given)
{
    worker *self = given;
    pthread_mutex_lock(&self->mutex);
    for (;;) {
        while (self->team == NULL) pthread_cond_wait(&self->wake, &self->mutex);
        team *t = self->team;
        cgru_member member = self->member;
        self->team = NULL;
        pthread_mutex_unlock(&self->mutex);
        leave_cpu(t->processor);
        t->task(t->what, member);
        /* Back on the list before the caller can return, so that its next call finds this worker again. */
        pthread_mutex_lock(&pool.mutex);
        self->next = pool.idle;
        pool.idle = self;
        pthread_mutex_unlock(&pool.mutex);
        pthread_mutex_lock(&self->mutex);
        atomic_fetch_sub(&t->working, 1);
        wake_sleepers();
    }
    return NULL;
}

/* Around fork no other thread holds the list, or is about to sleep; the child has no workers and forgets the parent's. */
static void before_fork(void)
{
    pthread_mutex_lock(&pool.mutex);
    pthread_mutex_lock(&rest.mutex);
}
static void after_fork_in_parent(void)
{
    pthread_mutex_unlock(&rest.mutex);
    pthread_mutex_unlock(&pool.mutex);
}
static void after_fork_in_child(void)
{
    pool.idle = NULL;
    atomic_store(&rest.sleepers, 0);
    rest.changed = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
    pthread_mutex_unlock(&rest.mutex);
    pthread_mutex_unlock(&pool.mutex);
}

/* A sleeping worker, or a new one; NULL where none can be had. */
static worker *acquire_worker(void)
{
    pthread_mutex_lock(&pool.mutex);
    if (!pool.prepared) pool.prepared = pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child) == 0;
    worker *found = pool.idle;
    if (found != NULL) pool.idle = found->next;
    int prepared = pool.prepared;
    pthread_mutex_unlock(&pool.mutex);
    if (found != NULL || !prepared) return found;

    worker *made = malloc(sizeof *made);
    if (made == NULL) return NULL;
    pthread_mutex_init(&made->mutex, NULL);
    pthread_cond_init(&made->wake, NULL);
    made->team = NULL;
    /* Signals are the process's own threads' business. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_t thread;
    int failed = pthread_create(&thread, NULL, work, made);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) {
        free(made);
        return NULL;
    }
    pthread_detach(thread);
    return made;
}

void cgru_team_run(int size, cgru_task *task, void *what)
{
    worker *workers[CGRU_MAX_TEAM];
    int acquired = 0;
    if (size > CGRU_MAX_TEAM) size = CGRU_MAX_TEAM;
    while (acquired < size - 1 && (workers[acquired] = acquire_worker()) != NULL) acquired++;
    if (acquired == 0) {
        task(what, cgru_alone);
        return;
    }
    team t; /* 12 KB of barriers, of which a call uses few */
    t.task = task, t.what = what, t.processor = processor();
    atomic_init(&t.working, acquired);
    for (int i = 0; i < CGRU_TEAM_DEPTH * CGRU_MAX_TEAM; i++) {
        if (i % CGRU_MAX_TEAM > acquired) continue;
        atomic_init(&t.barriers[i].arrived, 0);
        atomic_init(&t.barriers[i].generation, 0);
    }
    for (int i = 0; i < acquired; i++) {
        pthread_mutex_lock(&workers[i]->mutex);
        workers[i]->team = &t;
        workers[i]->member = (cgru_member){i + 1, acquired + 1, t.barriers, NULL};
        pthread_cond_signal(&workers[i]->wake);
        pthread_mutex_unlock(&workers[i]->mutex);
    }
    task(what, (cgru_member){0, acquired + 1, t.barriers, NULL});
    for (int left; (left = atomic_load_explicit(&t.working, memory_order_acquire)) > 0;) wait_for_change(&t.working, left);
}

#endif
