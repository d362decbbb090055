/* A network as the runner sees it: a chain of nodes over packed weights, and how one is built. */
#ifndef CGRU_NET_H
#define CGRU_NET_H

#include "pack.h"

enum cgru_node_kind { CGRU_EMBEDDING, CGRU_DENSE, CGRU_ACTIVATION, CGRU_MASKING, CGRU_RECURRENT };
enum cgru_merge { CGRU_CONCAT, CGRU_SUM, CGRU_MUL, CGRU_AVE };

/* One direction of a recurrent node: its weights and where its state lies in a row. */
typedef struct {
    const cgru_scan *scan;
    int reverse; /* walks time from its end */
    int state;   /* offset of the cell's arrays in a state row */
    int emitted; /* offset of the number that says whether the row has had a step that counted; after it stands the
                  * largest |h| that int8 allows for, or zero while the row has none */
} cgru_direction;

typedef struct {
    int kind, in, out;         /* features */
    cgru_stored table;         /* embedding: (in, out) */
    int precision;             /* embedding: of its table */
    int mask_zero;             /* embedding: id 0 is a masked step */
    const cgru_matrix *matrix; /* dense */
    int activation;            /* dense, activation */
    float mask_value;          /* masking */
    int directions;            /* recurrent: 1 or 2 */
    cgru_direction direction[2];
    int merge;     /* recurrent, two directions */
    int sequences; /* recurrent: every output, or the last alone */
    int repeat;    /* recurrent: a masked step repeats the last output, or is zero */
    int flipped;   /* recurrent: outputs in the order processed rather than of time */
} cgru_node;

/* The nodes are copied; the weights they point to must outlive the network. NULL when there is no memory. */
cgru_net *cgru_net_new(const cgru_kernels *kernels, const cgru_node *nodes, int count);
void cgru_net_free(cgru_net *net);

#endif
