/* A graph with a node of most families, run by several threads at once, whole and in chunks: every result must be, to the
 * bit, what one thread alone gives for the whole. tools/sanitize.sh builds this under the sanitizers; every buffer here is
 * a malloc of its exact size, so that a step beyond one is seen. Graphs whose sizes do not fit must be refused.
 *
 *     graphs [ISA [ROUNDS]]     (all instruction sets of this machine, 1 round) */
#include <math.h>
#include <pthread.h>

#include "drawn.h"
#include "graph.h"

#define CALLERS 3
#define NODES 32
#define VALUES (NODES + 3)
#define OUTPUTS 5
#define STEADY 3 /* of them give a frame for each step alone */
#define REMEMBERED 11 /* frames of the memory that attention reads */

static const cgru_kernels *isa;
static int failures;

typedef struct {
    cgru_value values[VALUES];
    cgru_gnode nodes[NODES];
    int count, inputs, state, precision;
    cgru_scan *scans[NODES];
    cgru_matrix *matrices[NODES];
    const cgru_matrix *lists[NODES];
    float *vectors[2 * NODES];
    int scan_count, matrix_count, vector_count;
    int outputs[OUTPUTS];
} network;

/* The next node, over one value, or over more that the caller names. */
static cgru_gnode *add(network *n, const char *op, int in, int size)
{
    cgru_gnode *node = &n->nodes[n->count];
    memset(node, 0, sizeof *node);
    node->op = must((void *)cgru_op_named(op));
    node->inputs = 1;
    node->in[0] = in;
    node->out = n->inputs + n->count++;
    node->window = (cgru_window){1, 1, 0, 0, 1};
    for (int i = 0; i < CGRU_AXES; i++) node->size[i] = 1;
    n->values[node->out] = (cgru_value){size, n->values[in].clock, CGRU_FEATURES};
    return node;
}

static void give_vector(network *n, cgru_gnode *node, int k, int size)
{
    node->vector[k] = n->vectors[n->vector_count++] = drawn((size_t)size, 0.5f);
    node->numbers[k] = size;
}

static void give_matrix(network *n, cgru_gnode *node, int units, int inputs)
{
    cgru_stored w = stored(n->precision, (size_t)units, (size_t)inputs);
    float *b = drawn((size_t)units, 0.5f);
    const int at = n->matrix_count++;
    n->lists[at] = n->matrices[at] = must(cgru_matrix_new(isa, n->precision, units, inputs, w, b));
    node->matrix = &n->lists[at];
    node->groups = 1;
    discard(w);
    free(b);
}

static int place(network *n, int numbers)
{
    const int at = n->state;
    n->state += (numbers + 2 + 15) / 16 * 16;
    return at;
}

/* A recurrence of `lines` lines, each with a state of its own where it runs over time. */
static void give_scan(network *n, cgru_gnode *node, const char *name, int lines, int inputs, int units)
{
    const cgru_cell *cell = must((void *)cgru_cell_named(isa->of[n->precision], name));
    const size_t rows = (size_t)cell->gates * (size_t)units;
    cgru_stored w_ih = stored(n->precision, rows, (size_t)inputs), w_hh = stored(n->precision, rows, (size_t)units);
    float *b = drawn(rows, 0.5f);
    const cgru_weights weights = {.precision = n->precision, .input = inputs, .hidden = units, .out = units, .w_ih = w_ih,
                                  .w_hh = w_hh, .b_ih = b, .b_hh = b};
    cgru_scan *scan = n->scans[n->scan_count++] = must(cgru_scan_new(isa, cell, CGRU_TANH, CGRU_SIGMOID, &weights));
    const int numbers = lines * units * cell->states;
    const int at = place(n, numbers);
    node->scan = (cgru_node){.kind = CGRU_RECURRENT, .in = inputs, .out = units, .sequences = 1, .repeat = 1};
    node->scan.direction[0] = (cgru_direction){scan, 0, at, at + numbers};
    discard(w_ih);
    discard(w_hh);
    free(b);
}

static void give_window(network *n, cgru_gnode *node, int width, int dilation)
{
    const int span = (width - 1) * dilation + 1, size = n->values[node->in[0]].size;
    node->window = (cgru_window){span, 1, span - 1, 0, 1};
    node->hold[0] = span - 1;
    node->history[0] = place(n, (span - 1) * size);
    node->number[0] = width, node->number[1] = dilation;
}

static void give_plane(cgru_gnode *node, int channels, int units, int wide, int wide_out, int kernel, int stride, int pad)
{
    const int size[] = {1, wide, 1, wide_out}, ones[] = {1, kernel, 1, stride}, rest[] = {1, 1, 0, pad};
    memcpy(node->size, size, sizeof size);
    memcpy(node->stride[0], ones, sizeof ones);
    memcpy(node->stride[1], rest, sizeof rest);
    node->number[0] = channels, node->number[1] = units, node->number[2] = 1;
    node->number[3] = node->number[4] = 1;
}

/* Attention of one value's frames over another's, by products, masked where that has the network's steps. */
static int attend(network *n, const char *op, int query, int memory, int size)
{
    cgru_gnode *node = add(n, op, query, size);
    const int values = strcmp(op, "attend_weights") ? 1 : 0;
    node->inputs = 3 + values;
    for (int k = 1; k <= 1 + values; k++) node->in[k] = memory;
    node->in[2 + values] = n->values[memory].clock == CGRU_STEPS ? 1 : -1;
    node->real[0] = 0.3f;
    return node->out;
}

static void build(network *n, int precision)
{
    memset(n, 0, sizeof *n);
    n->precision = precision;
    n->inputs = 3;
    n->values[2] = (cgru_value){20, CGRU_STATIC, CGRU_FEATURES};
    n->values[0] = (cgru_value){37, CGRU_STEPS, CGRU_FEATURES};
    n->values[1] = (cgru_value){1, CGRU_STEPS, CGRU_MASK};
    cgru_gnode *node = add(n, "dense", 0, 48);
    node->number[0] = 1;
    node->activation = CGRU_RELU;
    give_matrix(n, node, 48, 37);
    const int dense = node->out;

    node = add(n, "conv1d", dense, 32);
    give_window(n, node, 3, 2);
    node->number[2] = 48;
    give_matrix(n, node, 32, 3 * 48);
    node = add(n, "depthwise", node->out, 32);
    give_window(n, node, 4, 1);
    give_vector(n, node, 0, 4 * 32);
    give_vector(n, node, 1, 32);
    node->activation = CGRU_TANH;
    const int thin = node->out;

    node = add(n, "copy", thin, 32); /* a reshape: nothing moves */
    node->size[3] = 32, node->stride[0][3] = 1;
    const int plane = node->out;
    node = add(n, "conv_inner", plane, 3 * 15); /* (2, 16) to (3, 15) */
    give_plane(node, 2, 3, 16, 15, 3, 1, 0);
    node->number[0] = 2;
    give_vector(n, node, 0, 3 * 2 * 3);
    give_vector(n, node, 1, 3);
    node = add(n, "conv_transpose_inner", node->out, 2 * 31); /* (3, 15) to (2, 31), a stride of 2 */
    give_plane(node, 3, 2, 15, 31, 3, 2, 0);
    give_vector(n, node, 0, 3 * 2 * 3);
    const int spread = node->out;
    node = add(n, "conv_inner_product", plane, 16 * 2); /* (2, 16) to (16, 2) */
    give_plane(node, 2, 16, 16, 2, 8, 8, 0);
    give_matrix(n, node, 16, 2 * 8);

    node = add(n, "scan_inner", node->out, 2 * 4 * 5); /* two lines of four steps of four numbers */
    node->number[0] = 2, node->number[1] = 4;
    give_scan(n, node, "gru_reset_before", 2, 4, 5);
    node->scan.direction[0].reverse = 1;
    const int inner = node->out;
    node = add(n, "scan_rows", thin, 4 * 6);
    node->number[0] = 4;
    node->inputs = 2, node->in[1] = 1;
    give_scan(n, node, "lstm", 4, 8, 6);
    const int rows = node->out;
    node = add(n, "scan", dense, 20);
    node->inputs = 2, node->in[1] = 1;
    give_scan(n, node, "gru_reset_after", 1, 48, 20);
    node->scan.directions = 1;

    const int state = node->out;
    node = add(n, "concat", state, 20 + 24 + 40);
    node->inputs = 3, node->in[1] = rows, node->in[2] = inner;
    node->number[0] = 1;
    const int joined = node->out;

    const int by_products = attend(n, "attend", state, 2, 20);
    const int by_tanh = attend(n, "attend", state, 2, 20);
    n->nodes[n->count - 1].kind = 1;
    give_vector(n, &n->nodes[n->count - 1], 0, 20);
    give_vector(n, &n->nodes[n->count - 1], 1, 20);
    const int weights = attend(n, "attend_weights", state, 2, REMEMBERED + 1);
    node = add(n, "concat", by_products, 20 + 20 + REMEMBERED + 1);
    node->inputs = 3, node->in[1] = by_tanh, node->in[2] = weights;
    node->number[0] = 1;
    n->outputs[2] = node->out;
    n->outputs[4] = attend(n, "attend_whole", thin, thin, 32);
    n->nodes[n->count - 1].flag = 1; /* no frame after its own */

    node = add(n, "norm", joined, 84);
    node->number[0] = 84, node->number[1] = 1, node->number[2] = 84;
    give_vector(n, node, 0, 84);
    give_vector(n, node, 1, 84);
    node->real[0] = 1e-5f;
    node = add(n, "binary", node->out, 84);
    node->inputs = 2, node->in[1] = joined;
    node->kind = CGRU_PAIR_MUL;
    node->size[3] = 84, node->stride[0][3] = node->stride[1][3] = 1;
    n->outputs[0] = node->out;
    node = add(n, "gather", spread, 70);
    float *index = n->vectors[n->vector_count++] = must(malloc(70 * sizeof(float)));
    for (int i = 0; i < 70; i++) index[i] = (float)((i * 17) % 63 - 1);
    node->vector[0] = index;
    node->numbers[0] = 70;
    node = add(n, "parametric", node->out, 70);
    node->kind = CGRU_LEAKY_RELU, node->real[0] = 0.1f;
    n->outputs[1] = node->out;
    node = add(n, "pool_whole", node->out, 70);
    node->inputs = 2, node->in[1] = 1;
    node->kind = 1; /* the mean */
    n->values[node->out].clock = CGRU_ONCE;
    n->outputs[3] = node->out;
}

static void tear_down(network *n)
{
    for (int i = 0; i < n->scan_count; i++) cgru_scan_free(n->scans[i]);
    for (int i = 0; i < n->matrix_count; i++) cgru_matrix_free(n->matrices[i]);
    for (int i = 0; i < n->vector_count; i++) free(n->vectors[i]);
}

static cgru_graph *plan(const network *n, int outputs, int *status)
{
    int bad;
    return cgru_graph_new(isa, n->values, n->inputs + n->count, n->inputs, n->nodes, n->count, n->outputs, outputs, status,
                          &bad);
}

/* ---- calls ----------------------------------------------------------------------------------------------------------- */

typedef struct {
    const cgru_graph *graph;
    const network *n;
    int rows, steps, threads, chunk, outputs;
    const float *x, *memory;
    const uint8_t *mask;
    const int64_t *lengths;
    float *y[OUTPUTS], *state;
} job;

static void run(job *j)
{
    j->state = must(calloc((size_t)j->rows * (size_t)j->n->state, sizeof(float)));
    for (int o = 0; o < j->outputs; o++) {
        const cgru_value *v = &j->n->values[j->n->outputs[o]];
        const size_t frames = v->clock == CGRU_STEPS ? (size_t)j->steps : 1;
        j->y[o] = must(malloc((size_t)j->rows * frames * (size_t)v->size * sizeof(float) + 1));
    }
    cgru_work *work = must(cgru_work_new());
    for (int done = 0; done == 0 || done < j->steps; done += j->chunk) {
        const int now = j->steps - done < j->chunk ? j->steps - done : j->chunk;
        cgru_port in[3] = {{j->x + done * 37, (int64_t)j->steps * 37, 37, now},
                           {j->mask ? j->mask + done : NULL, j->steps, 1, now},
                           {j->memory, REMEMBERED * 20, 20, REMEMBERED}}, out[OUTPUTS];
        for (int o = 0; o < j->outputs; o++) {
            const cgru_value *v = &j->n->values[j->n->outputs[o]];
            const int moves = v->clock == CGRU_STEPS;
            out[o] = (cgru_port){j->y[o] + (moves ? done * v->size : 0), (int64_t)(moves ? j->steps : 1) * v->size,
                                 moves ? v->size : 0, moves ? now : 1};
        }
        const cgru_graph_call call = {.rows = j->rows, .steps = now, .ended = 1, .inputs = in, .outputs = out,
                                      .lengths = j->lengths, .state = j->state, .state_row = j->n->state,
                                      .state_rows = j->rows, .threads = j->threads};
        const int status = cgru_graph_run(j->graph, &call, work);
        if (status != CGRU_OK) {
            fprintf(stderr, "%s: a call ends with status %d\n", isa->name, status);
            exit(2);
        }
        if (j->steps == 0) break;
    }
    cgru_work_free(work);
}

static void *caller(void *given)
{
    run(given);
    return NULL;
}

static int equal(const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (memcmp(a + i, b + i, sizeof *a) && !(isnan(a[i]) && isnan(b[i]))) return 0;
    }
    return 1;
}

static void compare(const job *a, const job *b)
{
    int alike = equal(a->state, b->state, (size_t)a->rows * (size_t)a->n->state);
    for (int o = 0; o < a->outputs; o++) {
        const cgru_value *v = &a->n->values[a->n->outputs[o]];
        alike &= equal(a->y[o], b->y[o], (size_t)a->rows * (v->clock == CGRU_STEPS ? (size_t)a->steps : 1) * (size_t)v->size);
    }
    if (alike) return;
    fprintf(stderr, "%s: precision %d, %d rows, %d steps: %d threads in chunks of %d differ from one\n", isa->name,
            a->n->precision, a->rows, a->steps, b->threads, b->chunk);
    failures++;
}

static void forget(job *j)
{
    for (int o = 0; o < j->outputs; o++) free(j->y[o]);
    free(j->state);
}

static void try(const network *n, int rows, int steps, int ragged)
{
    const size_t many = (size_t)rows * (size_t)steps;
    float *x = drawn(many * 37, 1.0f), *memory = drawn((size_t)rows * REMEMBERED * 20, 1.0f);
    uint8_t *mask = must(malloc(many + 1));
    int64_t *lengths = must(malloc((size_t)rows * sizeof *lengths));
    for (size_t i = 0; i < many; i++) mask[i] = draw() < 0.5f;
    for (int r = 0; r < rows; r++) lengths[r] = (int64_t)((draw() + 1.0f) * 0.5f * (float)(steps + 1));
    /* In chunks goes what gives a frame for each step alone, and what has no lengths. */
    for (int whole = 0; whole < 2; whole++) {
        int status;
        cgru_graph *graph = must(plan(n, whole ? OUTPUTS : STEADY, &status));
        job alone = {.graph = graph, .n = n, .rows = rows, .steps = steps, .threads = 1, .chunk = steps ? steps : 1,
                     .outputs = whole ? OUTPUTS : STEADY, .x = x, .memory = memory, .mask = ragged ? mask : NULL,
                     .lengths = ragged && whole ? lengths : NULL};
        run(&alone);
        job jobs[CALLERS];
        pthread_t threads[CALLERS];
        for (int i = 0; i < CALLERS; i++) {
            jobs[i] = alone;
            jobs[i].threads = 1 + (i + rows) % 4;
            if (!whole && steps) jobs[i].chunk = 1 + i * 5 < steps ? 1 + i * 5 : steps;
            if (pthread_create(&threads[i], NULL, caller, &jobs[i]) != 0) exit(2);
        }
        for (int i = 0; i < CALLERS; i++) pthread_join(threads[i], NULL);
        for (int i = 0; i < CALLERS; i++) {
            compare(&alone, &jobs[i]);
            forget(&jobs[i]);
        }
        forget(&alone);
        cgru_graph_free(graph);
    }
    free(x);
    free(memory);
    free(mask);
    free(lengths);
}

/* Every node's result one number larger or smaller than it is. */
static void refuse(network *n)
{
    for (int v = n->inputs; v < n->inputs + n->count; v++) {
        for (int by = -1; by <= 1; by += 2) {
            int status;
            n->values[v].size += by;
            cgru_graph *graph = plan(n, OUTPUTS, &status);
            n->values[v].size -= by;
            if (graph == NULL && status == CGRU_BAD_GRAPH) continue;
            fprintf(stderr, "a graph was planned whose %s has a number too %s\n", n->nodes[v - n->inputs].op->name,
                    by < 0 ? "few" : "many");
            cgru_graph_free(graph);
            failures++;
        }
    }
}

int main(int argc, char **argv)
{
    static const int sizes[][2] = {{1, 70}, {1, 1}, {2, 45}, {5, 9}, {70, 3}, {1, 0}};
    const int rounds = argc > 2 ? atoi(argv[2]) : 1, all = argc < 2 || strcmp(argv[1], "all") == 0;
    int found = 0, calls = 0;
    for (int i = 0; (isa = cgru_kernels_at(i)) != NULL; i++) {
        if (!cgru_kernels_usable(i) || !(all || strcmp(argv[1], isa->name) == 0)) continue;
        found++;
        for (int precision = 0; precision < CGRU_PRECISIONS; precision++) {
            for (int round = 0; round < rounds; round++) {
                network n;
                seed = (uint32_t)(round * 100 + precision);
                build(&n, precision);
                for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++, calls++) try(&n, sizes[k][0], sizes[k][1], (int)k % 2);
                refuse(&n);
                tear_down(&n);
            }
        }
    }
    if (!found) fprintf(stderr, "graphs: no such instruction set here\n");
    else printf("%d instruction sets, %d graphs and inputs, %d failures\n", found, calls, failures);
    return failures || !found;
}
