/* Networks of every kind, built through the C headers and run by several threads at once, each call with a team of its
 * own: every result must be, to the bit, what one thread alone gives. tools/sanitize.sh builds this together with the
 * core under ThreadSanitizer, and under AddressSanitizer and UndefinedBehaviorSanitizer; every buffer here is a malloc
 * of its exact size, so that a step beyond one is seen.
 *
 * Every precision of every instruction set is run, but for kernels that one before has had, as the float32 ones of an
 * instruction set that adds to another.
 *
 *     race [ISA [ROUNDS]]     (all instruction sets of this machine, 3 rounds) */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "drawn.h"
#include "net.h"
#include "pack.h"

#define CALLERS 3

static const cgru_kernels *isa;
static int precision; /* of the networks made now: of two matrices in three, the third is float32 */
static int failures;

static int alike(int kind, size_t rows, size_t inner, cgru_stored a, cgru_stored b)
{
    return memcmp(a.values, b.values, rows * inner * bytes_of(kind)) == 0 &&
           (a.scale == NULL || memcmp(a.scale, b.scale, rows * sizeof(float)) == 0);
}

/* ---- networks ---------------------------------------------------------------------------------------------------- */

#define MOST 12

typedef struct {
    cgru_node nodes[MOST];
    int count, features, state, last; /* last: the time axis is gone */
    cgru_scan *scans[2 * MOST];
    int scan_count;
    cgru_matrix *matrices[MOST];
    int matrix_count;
    cgru_stored table;
    int ids;
} network;

/* The precision of the network's next matrix. */
static int next_precision(const network *n)
{
    return n->count % 3 == 2 ? CGRU_FLOAT32 : precision;
}

static cgru_node *add(network *n, int kind, int out)
{
    cgru_node *node = &n->nodes[n->count++];
    memset(node, 0, sizeof *node);
    node->kind = kind;
    node->in = n->features;
    node->out = n->features = out;
    return node;
}

static void add_recurrent(network *n, const char *name, int hidden, int directions, int merge, int sequences, int backwards)
{
    const int kind = next_precision(n);
    const cgru_cell *cell = must((void *)cgru_cell_named(isa->of[kind], name));
    const int in = n->features, out = cell->projects ? hidden / 2 + 1 : hidden;
    const size_t rows = (size_t)cell->gates * hidden;
    const cgru_stored none = {NULL, NULL};
    cgru_node *node = add(n, CGRU_RECURRENT, directions == 2 && merge == CGRU_CONCAT ? 2 * out : out);
    node->directions = directions;
    node->merge = merge;
    node->sequences = sequences;
    node->repeat = n->count % 2;
    node->flipped = backwards;
    for (int d = 0; d < directions; d++) {
        cgru_stored w_ih = stored(kind, rows, in), w_hh = stored(kind, rows, out), w_hr = stored(kind, out, hidden);
        float *b_ih = drawn(rows, 0.5f), *b_hh = drawn(rows, 0.5f), *w_ph = drawn((size_t)cell->vectors * hidden, 0.5f);
        const cgru_weights weights = {.precision = kind, .input = in, .hidden = hidden, .out = out, .w_ih = w_ih,
                                      .b_ih = b_ih, .b_hh = b_hh, .w_hh = cell->recurrent ? w_hh : none,
                                      .w_hr = cell->projects ? w_hr : none,
                                      .w_ph = cell->vectors && !cell->separate_candidate_bias ? w_ph : NULL};
        cgru_scan *scan = must(cgru_scan_new(isa, cell, CGRU_TANH, CGRU_SIGMOID, &weights));
        cgru_stored again_ih = stored(kind, rows, in), again_hh = stored(kind, rows, out);
        cgru_stored again_hr = stored(kind, out, hidden);
        cgru_scan_weights(isa, scan, again_ih, again_hh, again_hr);
        if (!alike(kind, rows, in, w_ih, again_ih) || (cell->recurrent && !alike(kind, rows, out, w_hh, again_hh)) ||
            (cell->projects && !alike(kind, out, hidden, w_hr, again_hr))) {
            fprintf(stderr, "%s: %s: weights of %d x %d in precision %d do not come back\n", isa->name,
                    name, hidden, in, kind);
            failures++;
        }
        cgru_stored matrices[] = {w_ih, w_hh, w_hr, again_ih, again_hh, again_hr};
        for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++) discard(matrices[i]);
        free(b_ih);
        free(b_hh);
        free(w_ph);
        const int numbers = out + (cell->states - 1) * hidden;
        node->direction[d] = (cgru_direction){scan, d == 1 || backwards, n->state, n->state + numbers};
        n->scans[n->scan_count++] = scan;
        n->state += (numbers + 2 + 15) / 16 * 16;
    }
    if (!sequences) n->last = 1;
}

static void add_dense(network *n, int out, int activation)
{
    const int in = n->features, kind = next_precision(n);
    cgru_stored w = stored(kind, out, in);
    float *b = drawn((size_t)out, 0.5f);
    cgru_node *node = add(n, CGRU_DENSE, out);
    node->matrix = n->matrices[n->matrix_count++] = must(cgru_matrix_new(isa, kind, out, in, w, b));
    node->activation = activation;
    discard(w);
    free(b);
}

#define KINDS 8

static void build(network *n, int kind)
{
    memset(n, 0, sizeof *n);
    n->features = 37;
    switch (kind) {
    case 0: /* units shared out, one layer */
        add_recurrent(n, "gru_reset_after", 150, 1, CGRU_CONCAT, 1, 0);
        break;
    case 1: /* a wavefront, with layers that look at one step between them */
        for (int i = 0; i < 4; i++) {
            add_recurrent(n, i % 2 ? "gru_reset_before" : "gru_reset_after", 65 + i, 1, CGRU_CONCAT, 1, 0);
            if (i == 1) add_dense(n, 31, CGRU_RELU);
        }
        add_dense(n, 5, CGRU_SOFTMAX);
        break;
    case 2: /* two directions, twice, every way of merging among the kinds */
        add_recurrent(n, "gru_reset_after", 70, 2, CGRU_CONCAT, 1, 0);
        add_recurrent(n, "gru_reset_before", 33, 2, CGRU_SUM, 1, 0);
        add_dense(n, 17, CGRU_TANH);
        break;
    case 3: /* masking, backwards, the last output alone */
        add(n, CGRU_MASKING, n->features)->mask_value = 0.0f;
        add_recurrent(n, "gru_reset_before", 90, 1, CGRU_CONCAT, 1, 1);
        add_recurrent(n, "gru_reset_after", 48, 2, CGRU_MUL, 0, 0);
        add_dense(n, 3, CGRU_SOFTMAX);
        break;
    case 4: { /* ids in, gaps where they are 0 */
        n->features = 11;
        n->ids = 1;
        cgru_node *node = add(n, CGRU_EMBEDDING, 29);
        node->precision = precision;
        node->table = n->table = stored(precision, 11, 29);
        node->mask_zero = 1;
        add_recurrent(n, "gru_reset_after", 80, 1, CGRU_CONCAT, 1, 0);
        add_recurrent(n, "gru_reset_after", 80, 1, CGRU_CONCAT, 0, 0);
        add(n, CGRU_ACTIVATION, n->features)->activation = CGRU_ELU;
        break;
    }
    case 5: /* the cells of two phases, in one wavefront */
        add_recurrent(n, "lstm_projected", 97, 1, CGRU_CONCAT, 1, 0);
        add_recurrent(n, "lstm_peephole_projected", 45, 1, CGRU_CONCAT, 1, 0);
        add_recurrent(n, "three_gate_output", 50, 1, CGRU_CONCAT, 1, 0);
        add_recurrent(n, "mgu", 71, 1, CGRU_CONCAT, 1, 0);
        break;
    case 6: /* those of one */
        add_recurrent(n, "lstm", 66, 2, CGRU_AVE, 1, 0);
        add_recurrent(n, "lstm_peephole", 40, 1, CGRU_CONCAT, 1, 0);
        add_recurrent(n, "rnn", 100, 1, CGRU_CONCAT, 1, 0);
        add_recurrent(n, "three_gate", 35, 1, CGRU_CONCAT, 1, 0);
        add_recurrent(n, "min_gru", 90, 1, CGRU_CONCAT, 0, 0);
        break;
    case 7: /* no recurrence */
        add_dense(n, 40, CGRU_HARD_SIGMOID);
        add(n, CGRU_ACTIVATION, n->features)->activation = CGRU_SIGMOID;
        add_dense(n, 9, CGRU_LINEAR);
        break;
    }
}

static void tear_down(network *n)
{
    for (int i = 0; i < n->scan_count; i++) cgru_scan_free(n->scans[i]);
    for (int i = 0; i < n->matrix_count; i++) cgru_matrix_free(n->matrices[i]);
    discard(n->table);
}

/* ---- calls ------------------------------------------------------------------------------------------------------- */

typedef struct {
    const cgru_net *net;
    const network *n;
    int rows, steps, threads;
    const void *x;
    const int64_t *lengths, *index;
    const uint8_t *mask;
    const float *begin; /* (rows, n->state) */
    size_t outputs, states;
    float *y, *state;
    uint8_t *mask_out;
} job;

/* In scratch of its own where `kept` is NULL. */
static void run(job *j, cgru_work *kept)
{
    size_t many = (size_t)j->rows * j->steps;
    j->outputs = (j->n->last ? (size_t)j->rows : many) * j->n->features;
    j->states = (size_t)j->rows * j->n->state;
    j->y = must(malloc(j->outputs * sizeof(float) + 1));
    j->state = must(malloc(j->states * sizeof(float) + 1));
    j->mask_out = must(malloc(many + 1));
    memset(j->y, 0x55, j->outputs * sizeof(float));
    memset(j->mask_out, 0, many);
    memcpy(j->state, j->begin, j->states * sizeof(float));
    const int in = j->n->ids ? 1 : j->n->nodes[0].in;
    const cgru_call call = {
        .rows = j->rows,
        .steps = j->steps,
        .x = j->x,
        .x_row = (int64_t)in * j->steps,
        .x_step = in,
        .y = j->y,
        .y_row = j->n->last ? j->n->features : (int64_t)j->n->features * j->steps,
        .y_step = j->n->features,
        .lengths = j->lengths,
        .mask = j->mask,
        .mask_out = j->n->last ? NULL : j->mask_out,
        .state = j->state,
        .state_row = j->n->state,
        .state_rows = j->rows,
        .index = j->index,
        .threads = j->threads,
    };
    cgru_work *work = kept ? kept : must(cgru_work_new());
    for (int again = 0; again < 2; again++) { /* the second time in scratch that has been used */
        memcpy(j->state, j->begin, j->states * sizeof(float));
        if (cgru_net_run(j->net, &call, work) != CGRU_OK) {
            fprintf(stderr, "race: no memory for a call\n");
            exit(2);
        }
    }
    if (!kept) cgru_work_free(work);
}

static void forget(job *j)
{
    free(j->y);
    free(j->state);
    free(j->mask_out);
}

static void *caller(void *given)
{
    run(given, NULL);
    return NULL;
}

/* To the bit, but for a NaN's sign and payload: those are the compiler's choice of operands, not a number. */
static int equal(const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (memcmp(a + i, b + i, sizeof *a) && !(isnan(a[i]) && isnan(b[i]))) return 0;
    }
    return 1;
}

static int same(const job *a, const job *b)
{
    return equal(a->y, b->y, a->outputs) && equal(a->state, b->state, a->states) &&
           memcmp(a->mask_out, b->mask_out, (size_t)a->rows * a->steps) == 0;
}

/* kept: scratch that has served other networks, freed since. */
static void try(int kind, int rows, int steps, int ragged, cgru_work *kept)
{
    network n;
    build(&n, kind);
    cgru_net *net = must(cgru_net_new(isa, n.nodes, n.count));
    size_t many = (size_t)rows * steps;
    float *x = drawn(many * n.nodes[0].in, 1.0f), *begin = drawn((size_t)rows * n.state, 0.5f);
    int64_t *ids = must(malloc(many * sizeof *ids + 1));
    int64_t *lengths = must(malloc(rows * sizeof *lengths)), *index = must(malloc(rows * sizeof *index));
    uint8_t *mask = must(malloc(many + 1));
    for (size_t i = 0; i < many; i++) {
        ids[i] = (int64_t)((draw() + 1.0f) * 5.4f);
        mask[i] = draw() < 0.5f;
        if (draw() < -0.6f) memset(x + i * n.nodes[0].in, 0, n.nodes[0].in * sizeof(float));
        if (draw() < -0.99f) x[i * n.nodes[0].in] = draw() < 0.0f ? NAN : draw() < 0.0f ? INFINITY : 3e38f;
    }
    for (int r = 0; r < rows; r++) {
        lengths[r] = (int64_t)((draw() + 1.0f) * 0.5f * (float)(steps + 1));
        index[r] = rows - 1 - r;
    }
    job alone = {.net = net, .n = &n, .rows = rows, .steps = steps, .threads = 1, .begin = begin};
    alone.x = n.ids ? (const void *)ids : x;
    if (ragged) {
        alone.lengths = lengths;
        alone.mask = mask;
        alone.index = index;
    }
    run(&alone, kept);
    job jobs[CALLERS];
    pthread_t threads[CALLERS];
    for (int i = 0; i < CALLERS; i++) {
        jobs[i] = alone;
        jobs[i].threads = 2 + (kind + i + rows) % 4;
        if (pthread_create(&threads[i], NULL, caller, &jobs[i]) != 0) {
            fprintf(stderr, "race: no thread\n");
            exit(2);
        }
    }
    for (int i = 0; i < CALLERS; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < CALLERS; i++) {
        if (!same(&alone, &jobs[i])) {
            fprintf(stderr, "%s: precision %d, network %d, %d rows, %d steps, %s: %d threads differ from one\n", isa->name,
                    precision, kind, rows, steps, ragged ? "ragged" : "full", jobs[i].threads);
            failures++;
        }
        forget(&jobs[i]);
    }
    forget(&alone);
    free(x);
    free(begin);
    free(ids);
    free(lengths);
    free(index);
    free(mask);
    cgru_net_free(net);
    tear_down(&n);
}

/* Whether an instruction set before this one, of those run, has the kernels of that precision too. */
static int had(int at, int kind)
{
    for (int i = 0; i < at; i++) {
        if (cgru_kernels_usable(i) && cgru_kernels_at(i)->of[kind] == isa->of[kind]) return 1;
    }
    return 0;
}

int main(int argc, char **argv)
{
    static const int sizes[][2] = {{1, 70}, {1, 1}, {2, 45}, {5, 33}, {24, 9}, {150, 3}, {1, 0}, {3, 300}};
    const int rounds = argc > 2 ? atoi(argv[2]) : 3;
    int found = 0, calls = 0;
    for (int i = 0; (isa = cgru_kernels_at(i)) != NULL; i++) {
        const int all = argc < 2 || strcmp(argv[1], "all") == 0;
        if (!cgru_kernels_usable(i) || !(all || strcmp(argv[1], isa->name) == 0)) continue;
        found++;
        cgru_work *kept = must(cgru_work_new());
        for (precision = 0; precision < CGRU_PRECISIONS; precision++) {
            if (all && had(i, precision)) continue;
            for (int round = 0; round < rounds; round++) {
                for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
                    for (int kind = 0; kind < KINDS; kind++) {
                        seed = (uint32_t)(round * 1000 + kind * 100 + (int)k);
                        try(kind, sizes[k][0], sizes[k][1], (int)(k + round) % 2, kept);
                        calls++;
                    }
                }
            }
        }
        cgru_work_free(kept);
    }
    if (!found) fprintf(stderr, "race: no such instruction set here\n");
    else printf("%d instruction sets, %d networks and inputs, %d failures\n", found, calls, failures);
    return failures || !found;
}
