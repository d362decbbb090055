/* A network as the runner sees it: a chain of nodes over packed weights, and how one is built. */
#ifndef CGRU_NET_H
#define CGRU_NET_H

#include "pack.h"

enum cgru_node_kind { CGRU_EMBEDDING, CGRU_DENSE, CGRU_ACTIVATION, CGRU_MASKING, CGRU_RECURRENT };
enum cgru_merge { CGRU_CONCAT, CGRU_SUM, CGRU_MUL, CGRU_AVE };

/* What a row's state has begun with, kept behind its arrays: nothing yet, a step that counted, or a state that the caller
 * gave and no such step since. Two numbers stand there, the other a scale. */
enum { CGRU_FRESH = 0, CGRU_EMITTED = 1, CGRU_GIVEN = 2, CGRU_BOOKKEEPING = 2 };

/* One direction of a recurrent node: its weights and where its state lies in a row. */
typedef struct {
    const cgru_scan *scan;
    int reverse; /* walks time from its end */
    int state;   /* offset of the cell's arrays in a state row */
    int emitted; /* offset of the number that says what the row has begun with; after it stands the
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

/* Bytes of a row as the matrix multiplies it, in whole cache lines; 0 where that is the row itself. */
size_t cgru_prepared_bytes(const cgru_matrix *m);
void cgru_widen_prepared(size_t *most, const cgru_matrix *m);

/* What a product with a matrix costs in multiply-adds of float32: weights of fewer bytes are read and multiplied faster. */
int64_t cgru_matrix_cost(const cgru_matrix *m);

/* The nodes are copied; the weights they point to must outlive the network. NULL when there is no memory. */
cgru_net *cgru_net_new(const cgru_kernels *kernels, const cgru_node *nodes, int count);
void cgru_net_free(cgru_net *net);

#endif
