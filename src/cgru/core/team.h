/* Threads working on one call together. Every member runs the same function on the same data and does its share. */
#ifndef CGRU_TEAM_H
#define CGRU_TEAM_H

#include "stop.h"

typedef struct cgru_barrier cgru_barrier;

typedef struct {
    int rank, size;
    cgru_barrier *barrier; /* of the team; those of its parts stand behind it. NULL in a team of one */
    cgru_stop *stop;       /* of the call; NULL where it cannot be ended early */
} cgru_member;

static const cgru_member cgru_alone = {0, 1, 0, 0};

#define CGRU_MAX_TEAM 64 /* members, and so parts */
#define CGRU_TEAM_DEPTH 3 /* a team, its parts and theirs */
/* No result depends on these; a build for tests sets both to 1, and the smallest call is shared. */
#ifndef CGRU_WAKE_WORK
#define CGRU_WAKE_WORK (1 << 17) /* multiply-adds worth waking one more thread for: about 4 µs */
#endif
#ifndef CGRU_SHARE_WORK
#define CGRU_SHARE_WORK (1 << 14) /* multiply-adds worth a barrier for each member: about half a µs */
#endif

typedef void cgru_task(void *what, cgru_member member);

/* Runs task in `size` threads, the caller's being rank 0, or in fewer where threads cannot be had. Workers are
 * started when first needed and sleep between calls; a forked child starts its own. */
void cgru_team_run(int size, cgru_task *task, void *what);

/* Waits until every member of the team has come here. Whether the call is to end, and the same for all of them. */
int cgru_team_wait(cgru_member member);

/* The member's place in one of `parts` teams of as even a size as they go; *part says which. parts <= size. */
cgru_member cgru_team_split(cgru_member member, int parts, int *part);

/* The member's place in the part of its team that members [first, first + count) make, to which it belongs. */
cgru_member cgru_team_part(cgru_member member, int first, int count);

/* [low, high) of n things for this member, as even as they go. */
static inline void cgru_share(int n, cgru_member member, int *low, int *high)
{
    *low = 0;
    *high = n;
    if (member.size == 1) return; /* two divisions are a tenth of the smallest step */
    *low = (int)((long long)n * member.rank / member.size);
    *high = (int)((long long)n * (member.rank + 1) / member.size);
}

#endif
