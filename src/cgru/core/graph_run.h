/* Runs one block of rows of a call of a graph. */
#ifndef CGRU_GRAPH_RUN_H
#define CGRU_GRAPH_RUN_H

#include "graph_block.h"

/* Members of a team that so many multiply-adds at a time are worth: each has to meet the others. */
static inline int64_t cgru_members_worth(int64_t work)
{
    return 1 + work / (2 * CGRU_SHARE_WORK);
}

/* Every member of the block's team calls it on a block of its own. */
void cgru_run_graph_block(graph_block *b);

#endif
