/* Activations on vectors: one formula on every instruction set.
 *
 * exp(y) = 2^k · (1 + p(r)) with y = k·ln2 + r, |r| <= ln2/2, and p(r) = exp(r) - 1 = r + r²·q(r). The coefficients
 * of q are a minimax fit (relative error of p 1.3e-8). tanh through p keeps its accuracy near zero and saturates to
 * exactly 1; so does sigmoid, which matters: a gate that says "keep all" must not decay the state. Largest errors,
 * over all of float32 in steps: tanh 2.5 ulp, sigmoid 8.9e-8 (tests/test_kernel_math.py). */
#include "kernels.h"

/* exp(y) - 1 = (2^k)·p + (2^k - 1), and *exponent is k. */
static inline vec exp_parts(vec y, vec *exponent)
{
    vec k = v_round(v_mul(y, v_set(1.44269504f)));
    vec r = v_fma(k, v_set(-0.693145752f), y);
    r = v_fma(k, v_set(-1.42860677e-06f), r);
    vec q = v_set(0x1.6d99bep-10f);
    q = v_fma(q, r, v_set(0x1.12288p-7f));
    q = v_fma(q, r, v_set(0x1.555486p-5f));
    q = v_fma(q, r, v_set(0x1.5554aep-3f));
    q = v_fma(q, r, v_set(0.5f));
    *exponent = k;
    return v_fma(v_mul(r, r), q, r);
}

static inline vec v_tanh(vec x)
{
    vec k, u = v_min(v_set(10.0f), v_abs(x));
    vec p = exp_parts(v_mul(v_set(-2.0f), u), &k), scale = v_exp2i(k);
    vec m = v_fma(scale, p, v_sub(scale, v_set(1.0f))); /* exp(-2u) - 1 */
    return v_copysign(v_div(m, v_add(m, v_set(2.0f))), x);
}

/* 1 / (1 + exp(-x)), which reaches 0 as it reaches 1: a gate that says "drop all" leaves nothing of a state of 3e38.
 * Half of exp(-x) stays finite up to 89, and twice that overflows to infinity where the quotient is below float32. */
static inline vec v_sigmoid(vec x)
{
    vec k, y = v_max(v_set(-86.0f), v_min(v_set(89.0f), v_sub(v_set(0.0f), x)));
#ifdef V_SCALES /* one instruction makes 2^k · (1 + p), of 0.7 · 2^-124 or more, with the same roundings */
    vec p = exp_parts(y, &k);
    return v_div(v_set(1.0f), v_add(v_scale(v_add(p, v_set(1.0f)), k), v_set(1.0f)));
#else
    vec p = exp_parts(y, &k), half = v_exp2i(v_sub(k, v_set(1.0f)));
    return v_div(v_set(1.0f), v_fma(v_fma(half, p, half), v_set(2.0f), v_set(1.0f)));
#endif
}

/* The ones real files seldom use, a number at a time. */
static __attribute__((noinline)) vec v_rare(int activation, vec x)
{
    float lanes[VL];
    v_store(lanes, x);
    for (int i = 0; i < VL; i++) lanes[i] = cgru_activate_scalar(activation, lanes[i]);
    return v_load(lanes);
}

static __attribute__((noinline)) vec v_other(int activation, vec x)
{
    switch (activation) {
    case CGRU_RELU:
        return v_max(v_set(0.0f), x);
    case CGRU_HARD_SIGMOID:
        return v_max(v_set(0.0f), v_min(v_set(1.0f), v_fma(x, v_set(1.0f / 6.0f), v_set(0.5f))));
    case CGRU_HARD_SIGMOID_KERAS2:
        return v_max(v_set(0.0f), v_min(v_set(1.0f), v_fma(x, v_set(0.2f), v_set(0.5f))));
    case CGRU_HARD_TANH:
        return v_max(v_set(-1.0f), v_min(v_set(1.0f), x));
    case CGRU_RELU6:
        return v_max(v_set(0.0f), v_min(v_set(6.0f), x));
    case CGRU_SILU:
        return v_mul(x, v_sigmoid(x));
    case CGRU_GELU_TANH: { /* (1 + tanh u) / 2 = sigmoid(2 u) with u = sqrt(2/pi) (x + 0.044715 x^3) */
        vec cubic = v_fma(v_mul(v_set(0.0713548162726f), x), v_mul(x, x), v_mul(v_set(1.59576912161f), x));
        return v_mul(x, v_sigmoid(cubic));
    }
    case CGRU_HARD_SWISH:
        return v_mul(x, v_max(v_set(0.0f), v_min(v_set(1.0f), v_fma(x, v_set(1.0f / 6.0f), v_set(0.5f)))));
    default:
        return v_rare(activation, x);
    }
}

static inline __attribute__((always_inline)) vec v_activate(int activation, vec x)
{
    if (activation == CGRU_SIGMOID) return v_sigmoid(x);
    if (activation == CGRU_TANH) return v_tanh(x);
    return activation == CGRU_LINEAR ? x : v_other(activation, x);
}
