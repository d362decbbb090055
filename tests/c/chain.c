/* A whole program of the core without Python: a GRU and a dense layer built from arrays, run whole and step by step with a
 * state of the caller's, beside their equations in double precision. What to link: every file of core/, core/ops/ and, each
 * with the flags of setup.py, core/isa/.
 *
 *     chain [ISA]     (all instruction sets of this machine) */
#include <math.h>

#include "drawn.h"
#include "net.h"

enum { INPUTS = 3, UNITS = 21, OUTPUTS = 2, STEPS = 30 };

static double sigmoid(double x)
{
    return 1.0 / (1.0 + exp(-x));
}

static double product(const float *w, const float *b, int row, int inner, const double *v)
{
    double sum = b[row];
    for (int i = 0; i < inner; i++) sum += (double)w[row * inner + i] * v[i];
    return sum;
}

/* Cho et al. 2014, with the reset after the product, as PyTorch and cuDNN have it; gates in the order r, z, n. */
static void gru_step(const float *w_ih, const float *b_ih, const float *w_hh, const float *b_hh, const double *x, double *h)
{
    double made[UNITS];
    for (int u = 0; u < UNITS; u++) {
        double in[3], past[3];
        for (int g = 0; g < 3; g++) {
            in[g] = product(w_ih, b_ih, g * UNITS + u, INPUTS, x);
            past[g] = product(w_hh, b_hh, g * UNITS + u, UNITS, h);
        }
        const double r = sigmoid(in[0] + past[0]), z = sigmoid(in[1] + past[1]), n = tanh(in[2] + r * past[2]);
        made[u] = z * h[u] + (1.0 - z) * n;
    }
    memcpy(h, made, sizeof made);
}

static int differs(const float *found, const double *exact, int n)
{
    for (int i = 0; i < n; i++) {
        if (!(fabs(found[i] - exact[i]) <= 2e-6)) return 1;
    }
    return 0;
}

/* Whether the network differs from the equations, or its steps from the whole. */
static int run(const cgru_kernels *isa)
{
    seed = 5;
    float *w_ih = drawn(3 * UNITS * INPUTS, 0.8f), *b_ih = drawn(3 * UNITS, 0.5f), *w_hh = drawn(3 * UNITS * UNITS, 0.4f),
          *b_hh = drawn(3 * UNITS, 0.5f), *w = drawn(OUTPUTS * UNITS, 0.5f), *b = drawn(OUTPUTS, 0.5f);
    const cgru_cell *cell = must((void *)cgru_cell_named(isa->of[CGRU_FLOAT32], "gru_reset_after"));
    const cgru_weights weights = {.precision = CGRU_FLOAT32, .input = INPUTS, .hidden = UNITS, .out = UNITS,
                                  .w_ih = {w_ih, NULL}, .b_ih = b_ih, .w_hh = {w_hh, NULL}, .b_hh = b_hh};
    cgru_scan *scan = must(cgru_scan_new(isa, cell, CGRU_TANH, CGRU_SIGMOID, &weights));
    cgru_matrix *head = must(cgru_matrix_new(isa, CGRU_FLOAT32, OUTPUTS, UNITS, (cgru_stored){w, NULL}, b));
    const cgru_node nodes[] = {
        {.kind = CGRU_RECURRENT, .in = INPUTS, .out = UNITS, .directions = 1, .direction = {{scan, 0, 0, UNITS}}, .sequences = 1},
        {.kind = CGRU_DENSE, .in = UNITS, .out = OUTPUTS, .matrix = head, .activation = CGRU_LINEAR},
    };
    cgru_net *net = must(cgru_net_new(isa, nodes, 2));
    cgru_work *work = must(cgru_work_new());

    /* The state of a row: the units, and what the core notes behind them. All zero is where a sequence begins. */
    const size_t numbers = UNITS + CGRU_BOOKKEEPING;
    float *x = drawn(STEPS * INPUTS, 1.0f), *whole = must(malloc(STEPS * OUTPUTS * sizeof(float))), y[OUTPUTS];
    float *state = must(calloc(numbers, sizeof(float))), *stepped = must(calloc(numbers, sizeof(float)));
    cgru_call call = {.rows = 1, .steps = STEPS, .x = x, .x_row = STEPS * INPUTS, .x_step = INPUTS, .y = whole,
                      .y_row = STEPS * OUTPUTS, .y_step = OUTPUTS, .state = state, .state_row = (int64_t)numbers,
                      .state_rows = 1, .threads = 1};
    int wrong = cgru_net_run(net, &call, work) != CGRU_OK;
    call.steps = 1, call.y = y, call.state = stepped;
    double h[UNITS] = {0.0};
    for (int t = 0; t < STEPS; t++) {
        double in[INPUTS], exact[OUTPUTS];
        call.x = x + t * INPUTS;
        wrong |= cgru_net_run(net, &call, work) != CGRU_OK;
        for (int i = 0; i < INPUTS; i++) in[i] = x[t * INPUTS + i];
        gru_step(w_ih, b_ih, w_hh, b_hh, in, h);
        for (int o = 0; o < OUTPUTS; o++) exact[o] = product(w, b, o, UNITS, h);
        wrong |= differs(y, exact, OUTPUTS) || memcmp(y, whole + t * OUTPUTS, sizeof y) != 0;
    }
    wrong |= differs(state, h, UNITS) || memcmp(state, stepped, numbers * sizeof(float)) != 0;
    const int64_t far[] = {STEPS + 1};
    call.lengths = far;
    wrong |= cgru_net_run(net, &call, work) != CGRU_BAD_LENGTH;

    cgru_work_free(work);
    cgru_net_free(net);
    cgru_matrix_free(head);
    cgru_scan_free(scan);
    float *const held[] = {w_ih, b_ih, w_hh, b_hh, w, b, x, whole, state, stepped};
    for (size_t i = 0; i < sizeof held / sizeof *held; i++) free(held[i]);
    return wrong;
}

int main(int argc, char **argv)
{
    int found = 0, failures = 0;
    const cgru_kernels *isa;
    for (int i = 0; (isa = cgru_kernels_at(i)) != NULL; i++) {
        if (!cgru_kernels_usable(i) || !(argc < 2 || strcmp(argv[1], "all") == 0 || strcmp(argv[1], isa->name) == 0)) continue;
        found++;
        if (!run(isa)) continue;
        fprintf(stderr, "%s: a chain differs from its equations, or its steps from the whole\n", isa->name);
        failures++;
    }
    if (!found) fprintf(stderr, "chain: no such instruction set here\n");
    else printf("%d instruction sets, %d failures\n", found, failures);
    return failures || !found;
}
