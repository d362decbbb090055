#include "variates.h"

#include <math.h>
#include <string.h>

void cgru_philox(const uint32_t key[2], uint32_t counter[4])
{
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        const uint64_t a = (uint64_t)0xD2511F53u * counter[0], b = (uint64_t)0xCD9E8D57u * counter[2];
        const uint32_t next[4] = {(uint32_t)(b >> 32) ^ counter[1] ^ k0, (uint32_t)b, (uint32_t)(a >> 32) ^ counter[3] ^ k1,
                                  (uint32_t)a};
        memcpy(counter, next, sizeof next);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

double cgru_uniform(uint64_t seed, uint64_t stream, uint64_t index)
{
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    uint32_t c[4] = {(uint32_t)index, (uint32_t)(index >> 32), (uint32_t)stream, (uint32_t)(stream >> 32)};
    cgru_philox(key, c);
    return (double)((((uint64_t)c[0] << 32) | c[1]) >> 11) * 0x1p-53;
}

/* ---- elementary functions ------------------------------------------------------------------------------------------ */

static const double LN2_HIGH = 0.693147180369123816490, LN2_LOW = 1.90821492927058770002e-10; /* fdlibm */

/* Polynomials, the coefficient of the highest power first: artanh s / s in s², e^r, and cos a in a². */
static const double ARTANH[] = {1.0 / 21, 1.0 / 19, 1.0 / 17, 1.0 / 15, 1.0 / 13, 1.0 / 11,
                                1.0 / 9,  1.0 / 7,  1.0 / 5,  1.0 / 3,  1.0};
static const double EXP[] = {1.0 / 20922789888000, 1.0 / 1307674368000, 1.0 / 87178291200, 1.0 / 6227020800, 1.0 / 479001600,
                             1.0 / 39916800,       1.0 / 3628800,       1.0 / 362880,      1.0 / 40320,      1.0 / 5040,
                             1.0 / 720,            1.0 / 120,           1.0 / 24,          1.0 / 6,          1.0 / 2,
                             1.0,                  1.0};
static const double COSINE[] = {-1.0 / 403291461126605635584000000.0, 1.0 / 620448401733239439360000.0,
                                -1.0 / 1124000727777607680000.0,      1.0 / 2432902008176640000,
                                -1.0 / 6402373705728000,              1.0 / 20922789888000,
                                -1.0 / 87178291200,                   1.0 / 479001600,
                                -1.0 / 3628800,                       1.0 / 40320,
                                -1.0 / 720,                           1.0 / 24,
                                -1.0 / 2,                             1.0};
#define HORNER(of, x) horner(of, (int)(sizeof(of) / sizeof *(of)), x)

static inline double horner(const double *of, int count, double x)
{
    double total = of[0];
    for (int i = 1; i < count; i++) total = total * x + of[i];
    return total;
}

/* x = m · 2^k with m in [√½, √2), and 2 artanh((m − 1) / (m + 1)) as a series. */
double cgru_log(double x)
{
    int k;
    double m = frexp(x, &k);
    if (m < 0.7071067811865476) m = 2.0 * m, k = k - 1;
    const double s = (m - 1.0) / (m + 1.0);
    return 2.0 * s * HORNER(ARTANH, s * s) + k * LN2_LOW + k * LN2_HIGH;
}

/* x = k ln 2 + r, and the series of e^r. */
double cgru_exp(double x)
{
    x = x < -700.0 ? -700.0 : x > 700.0 ? 700.0 : x;
    const double k = rint(x / (LN2_HIGH + LN2_LOW)), r = (x - k * LN2_HIGH) - k * LN2_LOW;
    const uint64_t bits = (uint64_t)((int64_t)k + 1023) << 52; /* 2^k, which is normal */
    double power;
    memcpy(&power, &bits, sizeof power);
    return HORNER(EXP, r) * power;
}

/* Eight numbers in four vectors, which every machine of 64 bits has: what waits for itself in one number does not wait for
 * the others. */
#define PAIRS 4
typedef double pair __attribute__((vector_size(16)));
typedef int64_t pair_bits __attribute__((vector_size(16)));
#define EACH_PAIR for (int p = 0; p < PAIRS; p++)

static inline void horner_eight(const double *of, int count, const pair *x, pair *total)
{
    EACH_PAIR total[p] = (pair){of[0], of[0]};
    for (int i = 1; i < count; i++) {
        EACH_PAIR total[p] = total[p] * x[p] + of[i];
    }
}
#define HORNER_EIGHT(of, x, total) horner_eight(of, (int)(sizeof(of) / sizeof *(of)), x, total)

static inline pair bounded(pair x, double low, double high)
{
    const pair_bits under = x < low, over = x > high;
    const pair_bits within = ~(under | over) & (pair_bits)x;
    return (pair)(within | (under & (pair_bits)(pair){low, low}) | (over & (pair_bits)(pair){high, high}));
}

void cgru_exp_eight(double *x)
{
    const pair whole = {0x1.8p52, 0x1.8p52}; /* beside it a number has no room for a fraction */
    pair in[PAIRS], r[PAIRS], total[PAIRS];
    pair_bits power[PAIRS];
    memcpy(in, x, sizeof in);
    EACH_PAIR
    {
        in[p] = bounded(in[p], -700.0, 700.0);
        const pair rounded = in[p] / (LN2_HIGH + LN2_LOW) + whole, k = rounded - whole;
        r[p] = (in[p] - k * LN2_HIGH) - k * LN2_LOW;
        power[p] = ((pair_bits)rounded - (pair_bits)whole + 1023) << 52;
    }
    HORNER_EIGHT(EXP, r, total);
    EACH_PAIR total[p] = total[p] * (pair)power[p];
    memcpy(x, total, sizeof total);
}

/* ln(1 + e^x), of the side where e^x stays small; ln(1 + e) as Kahan has it, exact where 1 + e rounds. */
double cgru_softplus(double x)
{
    const double e = cgru_exp(-fabs(x)), u = 1.0 + e;
    const double small = u == 1.0 ? e : cgru_log(u) * e / (u - 1.0);
    return (x > 0.0 ? x : 0.0) + small;
}

/* cos 2πv for v in [0, 1): by symmetry of an angle of at most a quarter turn, as a series. */
static double cosine_of_turn(double v)
{
    double w = fabs(v - 0.5); /* cos 2πv = −cos 2πw, w in [0, ½] */
    const double sign = w > 0.25 ? 1.0 : -1.0;
    if (w > 0.25) w = 0.5 - w;
    const double angle = 6.283185307179586 * w;
    return sign * HORNER(COSINE, angle * angle);
}

/* ---- distributions ------------------------------------------------------------------------------------------------- */

/* Wichura's PPND16: numerators and denominators for |u − ½| ≤ 0.425, and for the tails. */
static const double CENTRE[2][8] = {
    {2509.0809287301226727, 33430.575583588128105, 67265.770927008700853, 45921.953931549871457, 13731.693765509461125,
     1971.5909503065514427, 133.14166789178437745, 3.387132872796366608},
    {5226.495278852545925, 28729.085735721942674, 39307.89580009271061, 21213.794301586595867, 5394.1960214247511077,
     687.1870074920579083, 42.313330701600911252, 1.0},
};
static const double NEAR[2][8] = {
    {7.7454501427834140764e-4, 0.0227238449892691845833, 0.24178072517745061177, 1.27045825245236838258,
     3.64784832476320460504, 5.7694972214606914055, 4.6303378461565452959, 1.42343711074968357734},
    {1.05075007164441684324e-9, 5.475938084995344946e-4, 0.0151986665636164571966, 0.14810397642748007459,
     0.68976733498510000455, 1.6763848301838038494, 2.05319162663775882187, 1.0},
};
static const double FAR[2][8] = {
    {2.01033439929228813265e-7, 2.71155556874348757815e-5, 0.0012426609473880784386, 0.026532189526576123093,
     0.29656057182850489123, 1.7848265399172913358, 5.4637849111641143699, 6.6579046435011037772},
    {2.04426310338993978564e-15, 1.4215117583164458887e-7, 1.8463183175100546818e-5, 7.868691311456132591e-4,
     0.0148753612908506148525, 0.13692988092273580531, 0.59983220655588793769, 1.0},
};

static double ratio(const double of[2][8], double x)
{
    return HORNER(of[0], x) / HORNER(of[1], x);
}

double cgru_normal(double u)
{
    const double q = u - 0.5;
    if (fabs(q) <= 0.425) return q * ratio(CENTRE, 0.180625 - q * q);
    const double side = q < 0.0 ? u : 1.0 - u, r = sqrt(-cgru_log(side > 0x1p-54 ? side : 0x1p-54));
    const double outer = r <= 5.0 ? ratio(NEAR, r - 1.6) : ratio(FAR, r - 5.0);
    return q < 0.0 ? -outer : outer;
}

void cgru_normal_eight(double *z, const double *u)
{
    pair q[PAIRS], x[PAIRS], above[PAIRS], below[PAIRS];
    memcpy(q, u, sizeof q);
    EACH_PAIR
    {
        q[p] = q[p] - 0.5;
        x[p] = 0.180625 - q[p] * q[p];
    }
    HORNER_EIGHT(CENTRE[0], x, above);
    HORNER_EIGHT(CENTRE[1], x, below);
    EACH_PAIR q[p] = q[p] * (above[p] / below[p]);
    memcpy(z, q, sizeof q);
    for (int i = 0; i < 2 * PAIRS; i++) {
        if (fabs(u[i] - 0.5) > 0.425) z[i] = cgru_normal(u[i]);
    }
}

double cgru_student(double u, double v, double freedom)
{
    const double power = cgru_exp(-2.0 / freedom * cgru_log(u > 0x1p-54 ? u : 0x1p-54)), inside = freedom * (power - 1.0);
    return sqrt(inside > 0.0 ? inside : 0.0) * cosine_of_turn(v);
}
