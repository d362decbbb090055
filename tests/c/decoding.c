/* What decoding does between two steps: choices of tokens, beams, draws, forecasts' values, the largest of a product; against
 * the same written plainly, on scores of every length. tools/sanitize.sh builds this under the sanitizers; every buffer here
 * is a malloc of its exact size, so that a step beyond one is seen. What is arithmetic alone has equal bits on every
 * instruction set.
 *
 *     decoding [ISA [ROUNDS]]     (all instruction sets of this machine, 1 round) */
#include <float.h>
#include <math.h>

#include "beam.h"
#include "drawn.h"
#include "forecast.h"
#include "variates.h"

#define ROWS 5

static const cgru_kernels *isa;
static int failures, checks;

static void expect(int right, const char *what, int64_t size)
{
    checks++;
    if (right) return;
    fprintf(stderr, "%s: %s, %d numbers\n", isa->name, what, (int)size);
    failures++;
}

static int near(double a, double b)
{
    return fabs(a - b) <= 1e-5 * (1.0 + fabs(b));
}

/* ---- written plainly -------------------------------------------------------------------------------------------------- */

static double log_probability(const cgru_scores *s, ptrdiff_t row, int64_t token)
{
    const float *x = s->scores + row * s->row;
    if (s->kind == CGRU_PROBABILITIES) return x[token] > 0.0f ? log(x[token]) : -INFINITY;
    double top = -INFINITY, sum = 0.0;
    for (int64_t i = 0; i < s->vocabulary; i++) top = x[i] > top ? x[i] : top;
    for (int64_t i = 0; i < s->vocabulary; i++) sum += exp(x[i] - top);
    return x[token] - top - log(sum);
}

static int may(const cgru_scores *s, ptrdiff_t row, int64_t token)
{
    return token != s->forbidden && (s->allowed == NULL || s->allowed[row * s->vocabulary + token]);
}

static int64_t likeliest(const cgru_scores *s, ptrdiff_t row)
{
    int64_t best = -1;
    for (int64_t i = 0; i < s->vocabulary; i++) {
        if (may(s, row, i) && (best < 0 || s->scores[row * s->row + i] > s->scores[row * s->row + best])) best = i;
    }
    return best;
}

/* ---- scores of one length --------------------------------------------------------------------------------------------- */

static void choose(const cgru_scores *s)
{
    int64_t *order = must(malloc((size_t)s->vocabulary * sizeof *order));
    for (ptrdiff_t r = 0; r < ROWS; r++) {
        const int64_t best = likeliest(s, r);
        int64_t token = -1;
        double score = 0.0;
        const int status = cgru_likeliest(s, r, &token, &score);
        const int found = best >= 0 && log_probability(s, r, best) > -INFINITY;
        expect(found == (status == CGRU_CHOSEN), "whether a row has a token", s->vocabulary);
        if (!found || status != CGRU_CHOSEN) continue;
        expect(token == best && near(score, log_probability(s, r, best)), "the likeliest token", s->vocabulary);
        for (int limited = 0; limited < 3; limited++) {
            const cgru_draw_limits limits = {0.7, limited == 2 ? 0.6 : 1.0, limited == 1 ? 1 : 0};
            const double u = 0.5 * (1.0 + draw());
            const int drawn_one = cgru_draw(s, r, &limits, u, order, &token, &score);
            expect(drawn_one == CGRU_CHOSEN && token >= 0 && token < s->vocabulary && may(s, r, token), "a draw", s->vocabulary);
            if (drawn_one != CGRU_CHOSEN) continue;
            expect(near(score, log_probability(s, r, token)), "a draw's score", s->vocabulary);
            expect(limited != 1 || token == best, "a draw of one", s->vocabulary);
        }
    }
    free(order);
}

static void continue_beams(const cgru_scores *s, ptrdiff_t want)
{
    double base[ROWS];
    cgru_continuation *made = must(malloc((size_t)want * sizeof *made));
    ptrdiff_t found = 0, possible = 0;
    for (int r = 0; r < ROWS; r++) base[r] = draw();
    const int status = cgru_continuations(s, 0, ROWS, base, want, made, &found);
    expect(status == CGRU_CHOSEN, "continuations", s->vocabulary);
    for (ptrdiff_t i = 0; status == CGRU_CHOSEN && i < found; i++) {
        const double exact = base[made[i].row] + log_probability(s, made[i].row, made[i].token);
        expect(near(made[i].score, exact) && may(s, made[i].row, made[i].token), "a continuation", s->vocabulary);
        expect(i == 0 || made[i].score <= made[i - 1].score, "the order of continuations", s->vocabulary);
    }
    for (int r = 0; status == CGRU_CHOSEN && r < ROWS; r++) {
        for (int64_t i = 0; i < s->vocabulary; i++) {
            const double score = base[r] + log_probability(s, r, i);
            if (!may(s, r, i) || !(score > -INFINITY)) continue;
            possible++;
            int held = found < want || score <= made[want - 1].score + 1e-5 * (1.0 + fabs(score));
            for (ptrdiff_t j = 0; j < found; j++) held |= made[j].row == r && made[j].token == i;
            expect(held, "a continuation left out", s->vocabulary);
        }
    }
    if (status == CGRU_CHOSEN) expect(found == (possible < want ? possible : want), "how many continuations", s->vocabulary);
    free(made);
}

/* To the end, by scores at random; `bits` takes what must be equal on every instruction set. */
static void search_beams(int64_t vocabulary, int64_t width, double *bits)
{
    enum { INPUTS = 3, MOST = 9 };
    double divisor[MOST + 1];
    cgru_beams b;
    for (int i = 0; i <= MOST; i++) divisor[i] = i ? i : 1.0;
    if (cgru_beams_start(&b, INPUTS, width, width, 0, MOST, divisor) != CGRU_OK) exit(2);
    while (b.rows) {
        float *x = drawn((size_t)(b.rows * vocabulary), 3.0f);
        const cgru_scores s = {cgru_loops_of(isa), x, vocabulary, vocabulary, CGRU_LOGITS, -1, NULL};
        expect(cgru_beams_step(&b, &s) == CGRU_CHOSEN, "a step of beams", vocabulary);
        for (int64_t r = 0; r < b.rows; r++) {
            int64_t *tokens = must(malloc((size_t)b.steps * sizeof *tokens));
            cgru_beams_path(&b, b.steps, r, tokens, NULL);
            expect(tokens[b.steps - 1] == cgru_beams_tokens(&b)[r], "a beam's path", vocabulary);
            free(tokens);
        }
        free(x);
    }
    *bits = 0.0;
    for (int64_t i = 0; i < INPUTS; i++) {
        expect(b.done[i] >= 1 && b.done[i] <= width, "complete sequences", vocabulary);
        for (int64_t k = 0; k < b.done[i]; k++) *bits += b.complete[i * width + k].score;
    }
    cgru_beams_clear(&b);
}

static double scores_of_length(int64_t vocabulary)
{
    const size_t n = (size_t)(ROWS * vocabulary);
    float *x = drawn(n, 4.0f);
    uint8_t *allowed = must(malloc(n));
    for (size_t i = 0; i < n; i++) allowed[i] = draw() < 0.3f || i % (size_t)vocabulary == 0;
    x[0] = -INFINITY;
    cgru_scores s = {cgru_loops_of(isa), x, vocabulary, vocabulary, CGRU_LOGITS, -1, NULL};
    for (int kind = 0; kind < 2; kind++) {
        s.kind = kind ? CGRU_PROBABILITIES : CGRU_LOGITS;
        for (size_t i = 0; kind && i < n; i++) x[i] = x[i] > 0.0f ? x[i] : 0.0f;
        for (int limits = 0; limits < 3; limits++) {
            s.forbidden = limits == 1 ? vocabulary / 2 : -1;
            s.allowed = limits == 2 ? allowed : NULL;
            choose(&s);
            int usable = 1; /* continuations of rows that have none are refused, as the choice of a token is */
            for (ptrdiff_t r = 0; r < ROWS; r++) {
                float top = -INFINITY;
                for (int64_t i = 0; i < vocabulary; i++) top = x[r * vocabulary + i] > top ? x[r * vocabulary + i] : top;
                usable &= top > (kind ? 0.0f : -INFINITY);
            }
            if (usable) continue_beams(&s, 1), continue_beams(&s, 4);
        }
    }
    s.kind = CGRU_LOGITS, s.forbidden = -1, s.allowed = NULL;
    int64_t token;
    double score, bits;
    for (int64_t at = 0; at < vocabulary; at++) {
        const float kept = x[at];
        x[at] = NAN;
        expect(cgru_likeliest(&s, 0, &token, &score) == CGRU_NO_NUMBERS, "NaN", vocabulary);
        x[at] = INFINITY;
        expect(cgru_likeliest(&s, 0, &token, &score) == CGRU_NO_NUMBERS, "infinity", vocabulary);
        x[at] = 100.0f;
        expect(cgru_likeliest(&s, 0, &token, &score) == CGRU_CHOSEN && token == at, "every place", vocabulary);
        x[at] = kept;
    }
    free(x);
    free(allowed);
    search_beams(vocabulary, 1, &bits);
    search_beams(vocabulary, 4, &score);
    return bits + score;
}

/* ---- the largest of a product ----------------------------------------------------------------------------------------- */

static void product(int precision, int units, int inner, ptrdiff_t k)
{
    cgru_stored w = stored(precision, (size_t)units, (size_t)inner);
    float *b = drawn((size_t)units, 0.5f), *x = drawn(ROWS * (size_t)inner, 1.0f);
    float *values = must(malloc(ROWS * (size_t)k * sizeof *values));
    int64_t *items = must(malloc(ROWS * (size_t)k * sizeof *items));
    cgru_matrix *m = must(cgru_matrix_new(isa, precision, units, inner, w, b));
    expect(cgru_product_top(isa, m, ROWS, x, inner, k, values, items) == CGRU_OK, "the largest of a product", units);
    for (int r = 0; r < ROWS; r++) {
        for (ptrdiff_t i = 0; i < k; i++) {
            const int64_t item = items[r * k + i];
            int right = item >= 0 && item < units && (i == 0 || values[r * k + i] <= values[r * k + i - 1]);
            for (ptrdiff_t j = 0; j < i; j++) right &= items[r * k + j] != item;
            double sum = right ? b[item] : 0.0;
            for (int j = 0; right && precision == CGRU_FLOAT32 && j < inner; j++)
                sum += (double)((float *)w.values)[item * inner + j] * x[r * inner + j];
            right &= precision != CGRU_FLOAT32 || near(values[r * k + i], sum);
            expect(right, "an item of the largest", units);
        }
    }
    cgru_matrix_free(m);
    discard(w);
    free(b);
    free(x);
    free(values);
    free(items);
}

/* ---- values of a forecast --------------------------------------------------------------------------------------------- */

static void forecast(int kind, int scale, int64_t rows, int size)
{
    const int said = size * (kind + 1);
    float *y = drawn((size_t)(rows * said), 2.0f), *values = must(malloc((size_t)(rows * size) * sizeof *values));
    const cgru_head head = {kind, scale, 1, size, 77};
    for (int64_t i = 0; scale == CGRU_SCALE_LINEAR && i < rows * said; i++) y[i] = fabsf(y[i]) + 0.1f;
    expect(cgru_head_values(&head, rows, y, said, 3, values, size) == CGRU_FINE, "a forecast's values", rows);
    for (int64_t r = 0; r < rows; r++) {
        for (int i = 0; i < size; i++) {
            double of[2];
            for (int j = 0; j < kind; j++) {
                of[j] = y[r * said + (j + 1) * size + i];
                if (scale == CGRU_SCALE_LOG) of[j] = cgru_exp(of[j]);
                if (scale == CGRU_SCALE_SOFTPLUS) of[j] = cgru_softplus(of[j]);
            }
            const uint64_t stream = (uint64_t)r | (uint64_t)i << 40;
            const double u = cgru_uniform(77, stream, 6);
            const double z = kind == CGRU_GAUSSIAN ? cgru_normal(u) : cgru_student(u, cgru_uniform(77, stream, 7), of[1]);
            expect(values[r * size + i] == (float)(y[r * said + i] + of[0] * z), "a value drawn", rows);
        }
    }
    y[rows * said - 1] = NAN;
    expect(cgru_head_values(&head, rows, y, said, 3, values, size) == CGRU_NOT_FINITE, "a forecast of NaN", rows);
    free(y);
    free(values);
}

int main(int argc, char **argv)
{
    static const int lengths[] = {1, 2, 7, 8, 9, 15, 16, 17, 31, 63, 64, 65, 74, 200};
    enum { LENGTHS = sizeof lengths / sizeof *lengths };
    const int rounds = argc > 2 ? atoi(argv[2]) : 1, all = argc < 2 || strcmp(argv[1], "all") == 0;
    double *first = must(malloc((size_t)rounds * LENGTHS * sizeof *first));
    int found = 0;
    for (int i = 0; (isa = cgru_kernels_at(i)) != NULL; i++) {
        if (!cgru_kernels_usable(i) || !(all || strcmp(argv[1], isa->name) == 0)) continue;
        found++;
        for (int round = 0; round < rounds; round++) {
            seed = (uint32_t)round;
            for (int k = 0; k < LENGTHS; k++) {
                const double bits = scores_of_length(lengths[k]);
                if (found == 1) first[round * LENGTHS + k] = bits;
                expect(bits == first[round * LENGTHS + k], "bits of beams' scores differ from another instruction set's", lengths[k]);
            }
            for (int precision = 0; precision < CGRU_PRECISIONS; precision++) {
                product(precision, 700, 37, 20);
                product(precision, 3, 5, 3);
            }
            for (int kind = CGRU_GAUSSIAN; kind <= CGRU_STUDENT; kind++) {
                for (int scale = CGRU_SCALE_LINEAR; scale <= CGRU_SCALE_SOFTPLUS; scale++) {
                    forecast(kind, scale, 1, 1);
                    forecast(kind, scale, 13, 3);
                }
            }
        }
    }
    free(first);
    if (!found) fprintf(stderr, "decoding: no such instruction set here\n");
    else printf("%d instruction sets, %d checks, %d failures\n", found, checks, failures);
    return failures || !found;
}
