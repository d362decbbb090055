/* What the BLAS backend does between two matrix products: activations, and one epilogue for each cell.
 *
 * A cell is a list of stages. A stage is one recurrent product, over some of the cell's gates, and an epilogue:
 * the pass over one row's gates that follows it. The time loop in _blas.pyx knows no more of a cell than its
 * entry in CGRU_CELLS; a new cell is an epilogue and an entry, under the name cells.py gives it.
 */
#ifndef CGRU_BLAS_CELLS_H
#define CGRU_BLAS_CELLS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#endif

/* The loader picks the widest build of each loop that the CPU has. The arithmetic is the same in all of them
 * (no fused multiply-add by itself), so the numbers are too. Sanitizers cannot run before the loader does. */
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GLIBC__) && defined(__OPTIMIZE__) \
    && defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__) \
    && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define CGRU_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define CGRU_CLONES
#endif
#if defined(__GNUC__)
#define CGRU_INLINE static inline __attribute__((always_inline))
#define CGRU_RESTRICT __restrict__
#define CGRU_CALLED __attribute__((noinline))
#else
#define CGRU_INLINE static __forceinline
#define CGRU_RESTRICT __restrict
#define CGRU_CALLED
#endif

/* Whether OpenBLAS has kernels for small matrices here that beat its packing ones: its AVX-512 build has. By cpuid, as
 * core/dispatch.c does: __builtin_cpu_supports needs a symbol that zig cc's runtime lacks. */
static int cgru_has_small_sgemm(void)
{
#if defined(__x86_64__) && defined(__GNUC__)
    const unsigned osxsave = 1u << 27, f = 1u << 16, dq = 1u << 17, bw = 1u << 30, vl = 1u << 31;
    unsigned a, b, c, d, low, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & osxsave)) return 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    (void)high;
    if ((low & 0xe6) != 0xe6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    return (b & (f | dq | bw | vl)) == (f | dq | bw | vl);
#else
    return 0;
#endif
}

/* In the order of activations.ACTIVATIONS. */
enum {
    CGRU_LINEAR, CGRU_SIGMOID, CGRU_TANH, CGRU_RELU, CGRU_HARD_SIGMOID, CGRU_HARD_SIGMOID_KERAS2,
    CGRU_SOFTSIGN, CGRU_SOFTPLUS, CGRU_ELU, CGRU_SOFTMAX,
    CGRU_HARD_TANH, CGRU_RELU6, CGRU_SELU, CGRU_SILU, CGRU_GELU, CGRU_GELU_TANH, CGRU_MISH, CGRU_HARD_SWISH,
    CGRU_LOG_SIGMOID
};

/* e^x - 1 = 2^k·p + (2^k - 1), with p = e^r - 1 and r = x - k·ln 2: sets p and gives 2^k. -87 <= x <= 88 or NaN.
 * The rounding to k adds 1.5·2^23, whose last bits are then k. p is a least-maximum fit to 1.3e-8 relative. */
CGRU_INLINE float cgru_exp_parts(float x, float *p)
{
    const float magic = 12582912.0f;
    float t = x * 1.44269504f + magic, k = t - magic;
    float r = (x - k * 0.693359375f) - k * -2.12194440e-4f, q = 0.00138825167f, scale;
    int32_t bits;
    q = q * r + 0.00836654752f;
    q = q * r + 0.0416672006f;
    q = q * r + 0.166665435f;
    q = q * r + 0.49999997f;
    *p = r + r * r * q;
    memcpy(&bits, &t, sizeof bits);
    bits = (int32_t)(((uint32_t)bits - 0x4b400000u + 127u) << 23);
    memcpy(&scale, &bits, sizeof scale);
    return scale;
}

/* NaN passes through: neither comparison holds. */
CGRU_INLINE float cgru_clip(float x, float low, float high)
{
    x = x < low ? low : x;
    return x > high ? high : x;
}

CGRU_INLINE float cgru_exp(float x) /* zero below -87 */
{
    float p, scale = cgru_exp_parts(cgru_clip(x, -87.0f, 88.0f), &p), e = scale * p + scale;
    return x < -87.0f ? 0.0f : e;
}

CGRU_INLINE float cgru_expm1(float x)
{
    float p, scale = cgru_exp_parts(x, &p);
    return scale * p + (scale - 1.0f);
}

CGRU_INLINE float cgru_sigmoid(float x)
{
    float p, scale = cgru_exp_parts(cgru_clip(-x, -87.0f, 88.0f), &p);
    return x < -88.0f ? 0.0f : 1.0f / (1.0f + (scale * p + scale));
}

CGRU_INLINE float cgru_tanh(float x) /* 1 in float32 beyond 9.02 */
{
    float e = cgru_expm1(2.0f * cgru_clip(x, -9.2f, 9.2f));
    return e / (e + 2.0f);
}

#define CGRU_EACH(expression)      \
    for (int i = 0; i < n; i++) {  \
        const float x = v[i];      \
        v[i] = (expression);       \
    }                              \
    break

/* v ← φ(v), elementwise. A function by itself: with a copy in every epilogue the module would be three times its size. */
CGRU_CLONES CGRU_CALLED static void cgru_activate(int code, float *CGRU_RESTRICT v, int n)
{
    switch (code) {
    case CGRU_SIGMOID: CGRU_EACH(cgru_sigmoid(x));
    case CGRU_TANH: CGRU_EACH(cgru_tanh(x));
    case CGRU_RELU: CGRU_EACH(x < 0.0f ? 0.0f : x);
    case CGRU_HARD_SIGMOID: CGRU_EACH(cgru_clip(x / 6.0f + 0.5f, 0.0f, 1.0f));
    case CGRU_HARD_SIGMOID_KERAS2: CGRU_EACH(cgru_clip(0.2f * x + 0.5f, 0.0f, 1.0f));
    case CGRU_SOFTSIGN: CGRU_EACH(x / (1.0f + fabsf(x)));
    case CGRU_SOFTPLUS: CGRU_EACH((x < 0.0f ? 0.0f : x) + log1pf(expf(-fabsf(x))));
    case CGRU_ELU: CGRU_EACH(x > 0.0f ? x : cgru_expm1(cgru_clip(x, -87.0f, 0.0f)));
    case CGRU_HARD_TANH: CGRU_EACH(cgru_clip(x, -1.0f, 1.0f));
    case CGRU_RELU6: CGRU_EACH(cgru_clip(x, 0.0f, 6.0f));
    case CGRU_SELU:
        CGRU_EACH(1.05070099f * (x > 0.0f ? x : 1.67326324f * cgru_expm1(cgru_clip(x, -87.0f, 0.0f))));
    case CGRU_SILU: CGRU_EACH(x * cgru_sigmoid(x));
    case CGRU_GELU: CGRU_EACH(x * (0.5f * erfcf(-0.707106781f * x)));
    case CGRU_GELU_TANH: CGRU_EACH(x * cgru_sigmoid(0.0713548162726f * x * (x * x) + 1.59576912161f * x));
    case CGRU_MISH: CGRU_EACH(x * tanhf((x < 0.0f ? 0.0f : x) + log1pf(expf(-fabsf(x)))));
    case CGRU_HARD_SWISH: CGRU_EACH(x * cgru_clip(x / 6.0f + 0.5f, 0.0f, 1.0f));
    case CGRU_LOG_SIGMOID: CGRU_EACH((x < 0.0f ? x : 0.0f) - log1pf(expf(-fabsf(x))));
    default: break;
    }
}

/* v ← φ(v + bias), over all n features of one row where φ is softmax; bias may be NULL. */
CGRU_CLONES static void cgru_finish_row(float *CGRU_RESTRICT v, const float *CGRU_RESTRICT bias, int n, int code)
{
    if (bias)
        for (int i = 0; i < n; i++) v[i] += bias[i];
    if (code != CGRU_SOFTMAX) {
        cgru_activate(code, v, n);
        return;
    }
    float top = v[0], sum = 0.0f;
    for (int i = 1; i < n; i++) top = v[i] > top ? v[i] : top;
    for (int i = 0; i < n; i++) v[i] = cgru_exp(v[i] - top);
    for (int i = 0; i < n; i++) sum += v[i];
    for (int i = 0; i < n; i++) v[i] /= sum;
}

/* One row at one step. G gates of H numbers are stacked in x, s and bias; an epilogue changes units from..to. */
typedef struct {
    const float *x;    /* (G·H) the input projection, without bias */
    float *s;          /* (G·H) the recurrent product; an epilogue may keep gates here for the next stage */
    const float *bias; /* (G·H) all biases that add to a whole pre-activation */
    const float *vectors; /* (vectors·H) the bias inside the reset product, or peepholes, where the cell has them */
    float *h;          /* (H) the emitted state: old, then new */
    float *own;        /* (H) the state array after it, where the cell has one: old, then new */
    float *operand;    /* (H) what the next stage multiplies */
    float *y;          /* (H) the output */
    int H, gate, candidate;
} cgru_row;

typedef void (*cgru_epilogue)(const cgru_row *, int from, int to);

enum { CGRU_TILE = 128 }; /* units between two activations: their gates stay in the first-level cache */

/* r, z = σ(x + s + bias); n = φ(x + bias + r ⊙ (s + inner)); h' = z ⊙ h + (1 - z) ⊙ n. */
CGRU_CLONES static void cgru_gru_reset_after(const cgru_row *q, int from, int to)
{
    float r[CGRU_TILE], z[CGRU_TILE];
    const int H = q->H;
    for (int a = from; a < to; a += CGRU_TILE) {
        const int n = to - a < CGRU_TILE ? to - a : CGRU_TILE;
        const float *x = q->x + a, *b = q->bias + a, *s = q->s + a, *inner = q->vectors + a;
        float *h = q->h + a, *y = q->y + a;
        for (int i = 0; i < n; i++) {
            r[i] = x[i] + b[i] + s[i];
            z[i] = x[H + i] + b[H + i] + s[H + i];
        }
        cgru_activate(q->gate, r, n);
        cgru_activate(q->gate, z, n);
        for (int i = 0; i < n; i++) r[i] = x[2 * H + i] + b[2 * H + i] + r[i] * (s[2 * H + i] + inner[i]);
        cgru_activate(q->candidate, r, n);
        for (int i = 0; i < n; i++) y[i] = h[i] = z[i] * h[i] + (1.0f - z[i]) * r[i];
    }
}

/* r, z = σ(x + s + bias); operand = r ⊙ h; z stays in s. */
CGRU_CLONES static void cgru_gru_reset_before_gates(const cgru_row *q, int from, int to)
{
    float r[CGRU_TILE];
    const int H = q->H;
    for (int a = from; a < to; a += CGRU_TILE) {
        const int n = to - a < CGRU_TILE ? to - a : CGRU_TILE;
        const float *x = q->x + a, *b = q->bias + a, *h = q->h + a;
        float *s = q->s + a, *operand = q->operand + a;
        for (int i = 0; i < n; i++) r[i] = x[i] + b[i] + s[i];
        for (int i = 0; i < n; i++) s[H + i] += x[H + i] + b[H + i];
        cgru_activate(q->gate, r, n);
        cgru_activate(q->gate, s + H, n);
        for (int i = 0; i < n; i++) operand[i] = r[i] * h[i];
    }
}

/* n = φ(x + s + bias), where s is R_n (r ⊙ h); h' = z ⊙ h + (1 - z) ⊙ n. */
CGRU_CLONES static void cgru_gru_reset_before_state(const cgru_row *q, int from, int to)
{
    float c[CGRU_TILE];
    const int H = q->H;
    for (int a = from; a < to; a += CGRU_TILE) {
        const int n = to - a < CGRU_TILE ? to - a : CGRU_TILE;
        const float *x = q->x + 2 * H + a, *b = q->bias + 2 * H + a, *s = q->s + 2 * H + a, *z = q->s + H + a;
        float *h = q->h + a, *y = q->y + a;
        for (int i = 0; i < n; i++) c[i] = x[i] + b[i] + s[i];
        cgru_activate(q->candidate, c, n);
        for (int i = 0; i < n; i++) y[i] = h[i] = z[i] * h[i] + (1.0f - z[i]) * c[i];
    }
}

/* y = h' = φ(x + s + bias). */
CGRU_CLONES static void cgru_rnn(const cgru_row *q, int from, int to)
{
    const int n = to - from;
    float *h = q->h + from;
    for (int i = 0; i < n; i++) h[i] = q->x[from + i] + q->bias[from + i] + q->s[from + i];
    cgru_activate(q->candidate, h, n);
    memcpy(q->y + from, h, (size_t)n * sizeof(float));
}

/* i, f, o = σ(x + s + bias), p the peepholes: p_i ⊙ c and p_f ⊙ c are added, and p_o ⊙ c'; g = φ(x + s + bias);
 * c' = f ⊙ c + i ⊙ g; y = o ⊙ φ(c'). */
CGRU_INLINE void cgru_lstm_units(const cgru_row *q, int from, int to, int peepholes, float *CGRU_RESTRICT to_y)
{
    float gate[4][CGRU_TILE], m[CGRU_TILE];
    const int H = q->H;
    for (int a = from; a < to; a += CGRU_TILE) {
        const int n = to - a < CGRU_TILE ? to - a : CGRU_TILE;
        const float *p = q->vectors + a;
        float *c = q->own + a;
        for (int g = 0; g < 4; g++) {
            const float *x = q->x + g * H + a, *s = q->s + g * H + a, *b = q->bias + g * H + a;
            for (int i = 0; i < n; i++) gate[g][i] = x[i] + b[i] + s[i];
        }
        if (peepholes) {
            for (int i = 0; i < n; i++) gate[0][i] += p[i] * c[i];
            for (int i = 0; i < n; i++) gate[1][i] += p[H + i] * c[i];
        }
        cgru_activate(q->gate, gate[0], n);
        cgru_activate(q->gate, gate[1], n);
        cgru_activate(q->candidate, gate[2], n);
        for (int i = 0; i < n; i++) m[i] = c[i] = gate[1][i] * c[i] + gate[0][i] * gate[2][i];
        if (peepholes)
            for (int i = 0; i < n; i++) gate[3][i] += p[2 * H + i] * c[i];
        cgru_activate(q->gate, gate[3], n);
        cgru_activate(q->candidate, m, n);
        for (int i = 0; i < n; i++) to_y[a + i] = gate[3][i] * m[i];
    }
}

CGRU_CLONES static void cgru_lstm(const cgru_row *q, int from, int to)
{
    cgru_lstm_units(q, from, to, 0, q->h);
    memcpy(q->y + from, q->h + from, (size_t)(to - from) * sizeof(float));
}

CGRU_CLONES static void cgru_lstm_peephole(const cgru_row *q, int from, int to)
{
    cgru_lstm_units(q, from, to, 1, q->h);
    memcpy(q->y + from, q->h + from, (size_t)(to - from) * sizeof(float));
}

CGRU_CLONES static void cgru_lstm_projected_memory(const cgru_row *q, int from, int to)
{
    cgru_lstm_units(q, from, to, 0, q->operand);
}

CGRU_CLONES static void cgru_lstm_peephole_projected_memory(const cgru_row *q, int from, int to)
{
    cgru_lstm_units(q, from, to, 1, q->operand);
}

/* y = h' = s, where s is W_hr times the operand. */
static void cgru_take_product(const cgru_row *q, int from, int to)
{
    memcpy(q->h + from, q->s + from, (size_t)(to - from) * sizeof(float));
    memcpy(q->y + from, q->s + from, (size_t)(to - from) * sizeof(float));
}

/* f, i, o = σ(x + s + bias), c = φ(x + s + bias); h' = f ⊙ h + i ⊙ c; gives o ⊙ h', or h' itself. */
CGRU_INLINE void cgru_three_gate_units(const cgru_row *q, int from, int to, float *h, int output_gate)
{
    float gate[4][CGRU_TILE];
    const int H = q->H;
    for (int a = from; a < to; a += CGRU_TILE) {
        const int n = to - a < CGRU_TILE ? to - a : CGRU_TILE;
        float *y = q->y + a;
        for (int g = 0; g < 4; g++) {
            const float *x = q->x + g * H + a, *s = q->s + g * H + a, *b = q->bias + g * H + a;
            for (int i = 0; i < n; i++) gate[g][i] = x[i] + b[i] + s[i];
            cgru_activate(g < 3 ? q->gate : q->candidate, gate[g], n);
        }
        for (int i = 0; i < n; i++) y[i] = h[a + i] = gate[0][i] * h[a + i] + gate[1][i] * gate[3][i];
        if (output_gate)
            for (int i = 0; i < n; i++) q->h[a + i] = y[i] = gate[2][i] * y[i];
    }
}

CGRU_CLONES static void cgru_three_gate(const cgru_row *q, int from, int to)
{
    cgru_three_gate_units(q, from, to, q->h, 0);
}

CGRU_CLONES static void cgru_three_gate_output(const cgru_row *q, int from, int to)
{
    cgru_three_gate_units(q, from, to, q->own, 1);
}

/* z = σ(x + bias), n = φ(x + bias); h' = z ⊙ h + (1 - z) ⊙ n. */
CGRU_CLONES static void cgru_min_gru(const cgru_row *q, int from, int to)
{
    float z[CGRU_TILE], c[CGRU_TILE];
    const int H = q->H;
    for (int a = from; a < to; a += CGRU_TILE) {
        const int n = to - a < CGRU_TILE ? to - a : CGRU_TILE;
        const float *x = q->x + a, *b = q->bias + a;
        float *h = q->h + a, *y = q->y + a;
        for (int i = 0; i < n; i++) z[i] = x[i] + b[i];
        for (int i = 0; i < n; i++) c[i] = x[H + i] + b[H + i];
        cgru_activate(q->gate, z, n);
        cgru_activate(q->candidate, c, n);
        for (int i = 0; i < n; i++) y[i] = h[i] = z[i] * h[i] + (1.0f - z[i]) * c[i];
    }
}

/* z = σ(x + s + bias); operand = (1 - z) ⊙ h; z stays in s. */
CGRU_CLONES static void cgru_mgu_gate(const cgru_row *q, int from, int to)
{
    const int n = to - from;
    float *z = q->s + from;
    for (int i = 0; i < n; i++) z[i] += q->x[from + i] + q->bias[from + i];
    cgru_activate(q->gate, z, n);
    for (int i = 0; i < n; i++) q->operand[from + i] = (1.0f - z[i]) * q->h[from + i];
}

/* n = φ(x + s + bias), where s is R_n times the operand; h' = z ⊙ h + (1 - z) ⊙ n. */
CGRU_CLONES static void cgru_mgu_state(const cgru_row *q, int from, int to)
{
    float c[CGRU_TILE];
    const int H = q->H;
    for (int a = from; a < to; a += CGRU_TILE) {
        const int n = to - a < CGRU_TILE ? to - a : CGRU_TILE;
        const float *x = q->x + H + a, *b = q->bias + H + a, *s = q->s + H + a, *z = q->s + a;
        float *h = q->h + a, *y = q->y + a;
        for (int i = 0; i < n; i++) c[i] = x[i] + b[i] + s[i];
        cgru_activate(q->candidate, c, n);
        for (int i = 0; i < n; i++) y[i] = h[i] = z[i] * h[i] + (1.0f - z[i]) * c[i];
    }
}

enum { CGRU_OF_STATE, CGRU_OF_OWN, CGRU_OF_OPERAND, CGRU_PROJECTS };

typedef struct {
    int first, count; /* the gates whose recurrent product this stage takes; a count of 0 takes none */
    int of;           /* what it multiplies: a state array, or the operand of the stage before (PROJECTS: by W_hr) */
    cgru_epilogue epilogue;
} cgru_stage;

typedef struct {
    const char *name;
    int gates, stages;
    cgru_stage stage[2];
} cgru_cell;

static const cgru_cell CGRU_CELLS[] = {
    {"gru_reset_after", 3, 1, {{0, 3, CGRU_OF_STATE, cgru_gru_reset_after}}},
    {"gru_reset_before", 3, 2, {{0, 2, CGRU_OF_STATE, cgru_gru_reset_before_gates},
                                {2, 1, CGRU_OF_OPERAND, cgru_gru_reset_before_state}}},
    {"rnn", 1, 1, {{0, 1, CGRU_OF_STATE, cgru_rnn}}},
    {"lstm", 4, 1, {{0, 4, CGRU_OF_STATE, cgru_lstm}}},
    {"lstm_peephole", 4, 1, {{0, 4, CGRU_OF_STATE, cgru_lstm_peephole}}},
    {"lstm_projected", 4, 2, {{0, 4, CGRU_OF_STATE, cgru_lstm_projected_memory},
                              {0, 0, CGRU_PROJECTS, cgru_take_product}}},
    {"lstm_peephole_projected", 4, 2, {{0, 4, CGRU_OF_STATE, cgru_lstm_peephole_projected_memory},
                                       {0, 0, CGRU_PROJECTS, cgru_take_product}}},
    {"three_gate", 4, 1, {{0, 4, CGRU_OF_STATE, cgru_three_gate}}},
    {"three_gate_output", 4, 1, {{0, 4, CGRU_OF_OWN, cgru_three_gate_output}}},
    {"min_gru", 2, 1, {{0, 0, CGRU_OF_STATE, cgru_min_gru}}},
    {"mgu", 2, 2, {{0, 1, CGRU_OF_STATE, cgru_mgu_gate}, {1, 1, CGRU_OF_OPERAND, cgru_mgu_state}}},
};

enum { CGRU_CELL_COUNT = sizeof CGRU_CELLS / sizeof CGRU_CELLS[0] };

#endif
