/* Threads working on one call together. Every member runs the same function on the same data and does its share. */
#ifndef CGRU_TEAM_H
#define CGRU_TEAM_H

typedef struct cgru_barrier cgru_barrier;

typedef struct {
    int rank, size;
    cgru_barrier *barrier; /* NULL in a team of one */
} cgru_member;

static const cgru_member cgru_alone = {0, 1, 0};

typedef void cgru_task(void *what, cgru_member member);

/* Runs task in `size` threads, the caller's being rank 0; returns the number that took part (fewer where threads
 * cannot be had, down to 1). Sub-teams of it may be made with cgru_team_split. */
void cgru_team_run(int size, cgru_task *task, void *what);

/* Waits until every member of the team has come here. */
void cgru_team_wait(cgru_member member);

/* Members [low, high) of a team of n things, as even as they go. */
static inline void cgru_share(int n, cgru_member member, int *low, int *high)
{
    *low = (int)((long long)n * member.rank / member.size);
    *high = (int)((long long)n * (member.rank + 1) / member.size);
}

#endif
