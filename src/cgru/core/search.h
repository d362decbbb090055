/* Choosing tokens from the scores that a decoder gives at a step: the likeliest, the best continuations of a beam, a draw.
 * Scores are logits (log-probabilities are logits as well) or probabilities. Ties go to the earlier row and token. */
#ifndef CGRU_SEARCH_H
#define CGRU_SEARCH_H

#include "kernels.h"
#include "loops.h"

enum { CGRU_LOGITS, CGRU_PROBABILITIES };

/* What went wrong with a row: no token that may be chosen has a probability, or it holds NaN or +infinity. */
enum { CGRU_CHOSEN, CGRU_NO_TOKEN, CGRU_NO_NUMBERS };

/* The scores of some rows, and which tokens may be chosen. */
typedef struct {
    const cgru_loops *loops;
    const float *scores; /* (rows, vocabulary) */
    ptrdiff_t row;       /* numbers from a row to the next */
    int64_t vocabulary;
    int kind;
    int64_t forbidden;      /* a token that may not be chosen, or −1 */
    const uint8_t *allowed; /* (rows, vocabulary) or NULL */
} cgru_scores;

/* The likeliest token of a row, and the logarithm of its probability. */
int cgru_likeliest(const cgru_scores *s, ptrdiff_t row, int64_t *token, double *score);

/* One continuation of a beam. */
typedef struct {
    double score; /* base of its row + log-probability of its token */
    int64_t row, token;
} cgru_continuation;

/* The best `want` continuations of rows [first, end), best first; fewer where there are fewer, as *found says. */
int cgru_continuations(const cgru_scores *s, ptrdiff_t first, ptrdiff_t end, const double *base, ptrdiff_t want,
                       cgru_continuation *made, ptrdiff_t *found);

/* What a draw is limited to: the top_k likeliest tokens (0: all), of those the fewest whose probabilities, after the
 * temperature, sum to top_p at least (1: all). */
typedef struct {
    double temperature, top_p;
    int64_t top_k;
} cgru_draw_limits;

/* The token at `u`, in [0, 1), of the distribution; `score` is its log-probability without temperature and limits.
 * order: scratch of `vocabulary` numbers. */
int cgru_draw(const cgru_scores *s, ptrdiff_t row, const cgru_draw_limits *limits, double u, int64_t *order, int64_t *token,
              double *score);

/* The k largest of W v + b for each row v, best first, and which they are: values and items are (rows, k). CGRU_NO_MEMORY
 * or CGRU_OK. */
int cgru_product_top(const cgru_kernels *kernels, const cgru_matrix *m, int64_t rows, const float *x, ptrdiff_t x_row,
                     ptrdiff_t k, float *values, int64_t *items);

/* Keeps the k largest of numbers that come one after the other: values and items hold `held` so far, best first. */
ptrdiff_t cgru_keep_top(const float *from, int64_t count, int64_t first_item, ptrdiff_t k, float *values, int64_t *items,
                        ptrdiff_t held);

#endif
