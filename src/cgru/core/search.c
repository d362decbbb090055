#include "search.h"

#include <math.h>

#include "exp_of.h"

/* ---- probabilities ------------------------------------------------------------------------------------------------- */

/* The largest of a row's scores, and what to take from each for the logarithm of its probability. */
static int normalize(const cgru_scores *s, const float *x, float *top, double *norm)
{
    int numbers;
    *top = s->loops->largest(x, (int)s->vocabulary, &numbers);
    *norm = 0.0;
    if (!numbers || *top == INFINITY) return CGRU_NO_NUMBERS;
    if (s->kind == CGRU_PROBABILITIES) return *top > 0.0f ? CGRU_CHOSEN : CGRU_NO_TOKEN;
    if (*top == -INFINITY) return CGRU_NO_TOKEN;
    *norm = (double)*top + log(s->loops->sum_exps(x, *top, (int)s->vocabulary));
    return CGRU_CHOSEN;
}

static inline int may_choose(const cgru_scores *s, ptrdiff_t row, int64_t token)
{
    return token != s->forbidden && (s->allowed == NULL || s->allowed[row * s->vocabulary + token]);
}

static inline double logarithm(const cgru_scores *s, float x, double norm)
{
    return s->kind == CGRU_PROBABILITIES ? (x > 0.0f ? log((double)x) : -INFINITY) : (double)x - norm;
}

/* ---- the likeliest ------------------------------------------------------------------------------------------------- */

int cgru_likeliest(const cgru_scores *s, ptrdiff_t row, int64_t *token, double *score)
{
    const float *x = s->scores + row * s->row;
    float top;
    double norm;
    const int status = normalize(s, x, &top, &norm);
    if (status != CGRU_CHOSEN) return status;
    int64_t best = 0;
    while (x[best] != top) best++;
    if (!may_choose(s, row, best)) {
        best = -1;
        for (int64_t i = 0; i < s->vocabulary; i++) {
            if ((best < 0 || x[i] > x[best]) && may_choose(s, row, i)) best = i;
        }
        if (best < 0) return CGRU_NO_TOKEN;
    }
    *token = best;
    *score = logarithm(s, x[best], norm);
    return *score > -INFINITY ? CGRU_CHOSEN : CGRU_NO_TOKEN;
}

int cgru_continuations(const cgru_scores *s, ptrdiff_t first, ptrdiff_t end, const double *base, ptrdiff_t want,
                       cgru_continuation *made, ptrdiff_t *found)
{
    ptrdiff_t held = 0;
    for (ptrdiff_t r = first; r < end; r++) {
        const float *x = s->scores + r * s->row;
        float top;
        double norm;
        const int status = normalize(s, x, &top, &norm);
        if (status != CGRU_CHOSEN) return status;
        for (int64_t i = 0; i < s->vocabulary; i++) {
            if (s->kind == CGRU_LOGITS && held == want && base[r] + ((double)x[i] - norm) <= made[held - 1].score) continue;
            if (!may_choose(s, r, i)) continue;
            const double score = base[r] + logarithm(s, x[i], norm);
            if (!(score > -INFINITY) || (held == want && score <= made[held - 1].score)) continue;
            ptrdiff_t at = held < want ? held++ : held - 1;
            for (; at > 0 && made[at - 1].score < score; at--) made[at] = made[at - 1];
            made[at] = (cgru_continuation){score, r, i};
        }
    }
    *found = held;
    return CGRU_CHOSEN;
}

/* ---- draws --------------------------------------------------------------------------------------------------------- */

static inline int before(const float *x, int64_t a, int64_t b)
{
    return x[a] > x[b] || (x[a] == x[b] && a < b);
}

/* Restores a heap of tokens, the likeliest on top, below place `at`. */
static void sift(int64_t *heap, int64_t n, const float *x, int64_t at)
{
    for (int64_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && before(x, heap[child + 1], heap[child])) child++;
        if (!before(x, heap[child], heap[at])) return;
        const int64_t kept = heap[at];
        heap[at] = heap[child];
        heap[child] = kept;
    }
}

/* The weight of a token after the temperature: exp((log p − log p of the likeliest) / temperature). */
static double weight_of(const cgru_scores *s, float x, float top, double temperature)
{
    const double difference = s->kind == CGRU_PROBABILITIES ? log((double)x / top) : (double)x - top;
    return exp_of((float)(difference / temperature));
}

/* Puts the likeliest tokens first, in order: top_k of them at most, and no more than top_p asks for. How many they are. */
static int64_t limit_tokens(const cgru_scores *s, const float *x, float top, const cgru_draw_limits *limits, int64_t *order,
                            int64_t n)
{
    const int64_t most = limits->top_k > 0 && limits->top_k < n ? limits->top_k : n;
    double all = 0.0, sum = 0.0;
    for (int64_t i = n / 2; i-- > 0;) sift(order, n, x, i);
    for (int64_t taken = 0, left = n; taken < most; taken++) { /* off the heap, into the places behind it */
        const int64_t best = order[0];
        order[0] = order[--left];
        order[left] = best;
        sift(order, left, x, 0);
        all += weight_of(s, x[best], top, limits->temperature);
    }
    for (int64_t i = 0; i < n / 2; i++) {
        const int64_t kept = order[i];
        order[i] = order[n - 1 - i];
        order[n - 1 - i] = kept;
    }
    for (int64_t i = 0; i < most; i++) {
        sum += weight_of(s, x[order[i]], top, limits->temperature);
        if (limits->top_p < 1.0 && sum >= limits->top_p * all) return i + 1;
    }
    return most;
}

int cgru_draw(const cgru_scores *s, ptrdiff_t row, const cgru_draw_limits *limits, double u, int64_t *order, int64_t *token,
              double *score)
{
    const float *x = s->scores + row * s->row;
    float top;
    double norm, total = 0.0, sum = 0.0;
    const int status = normalize(s, x, &top, &norm);
    if (status != CGRU_CHOSEN) return status;
    int64_t n = 0;
    top = -INFINITY; /* now of those that may be chosen */
    for (int64_t i = 0; i < s->vocabulary; i++) {
        if (!may_choose(s, row, i) || !(x[i] > -INFINITY) || (s->kind == CGRU_PROBABILITIES && !(x[i] > 0.0f))) continue;
        order[n++] = i;
        top = x[i] > top ? x[i] : top;
    }
    if (n == 0) return CGRU_NO_TOKEN;
    if ((limits->top_k > 0 && limits->top_k < n) || limits->top_p < 1.0) n = limit_tokens(s, x, top, limits, order, n);
    for (int64_t i = 0; i < n; i++) total += weight_of(s, x[order[i]], top, limits->temperature);
    int64_t chosen = n - 1;
    for (int64_t i = 0; i < n; i++) {
        sum += weight_of(s, x[order[i]], top, limits->temperature);
        if (sum > u * total) {
            chosen = i;
            break;
        }
    }
    *token = order[chosen];
    *score = logarithm(s, x[*token], norm);
    return CGRU_CHOSEN;
}

/* ---- the largest of many ------------------------------------------------------------------------------------------- */

ptrdiff_t cgru_keep_top(const float *from, int64_t count, int64_t first_item, ptrdiff_t k, float *values, int64_t *items,
                        ptrdiff_t held)
{
    for (int64_t i = 0; i < count; i++) {
        if (held == k && !(from[i] > values[held - 1])) continue;
        const float value = from[i] == from[i] ? from[i] : -INFINITY; /* NaN is the last of all */
        ptrdiff_t at = held < k ? held++ : held - 1;
        for (; at > 0 && values[at - 1] < value; at--) values[at] = values[at - 1], items[at] = items[at - 1];
        values[at] = value, items[at] = first_item + i;
    }
    return held;
}
