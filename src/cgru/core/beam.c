#include "beam.h"

#include <stdlib.h>
#include <string.h>

int cgru_beams_start(cgru_beams *b, int64_t inputs, int64_t width, int64_t best, int64_t stop, int64_t most,
                     const double *divisor)
{
    const size_t rows = (size_t)inputs * (size_t)width;
    double *table = malloc(((size_t)most + 1) * sizeof *table);
    memset(b, 0, sizeof *b);
    b->inputs = b->rows = b->groups = inputs;
    b->width = width, b->best = best, b->stop = stop, b->most = most, b->divisor = table;
    b->input = malloc((size_t)inputs * sizeof *b->input);
    b->bounds = malloc(((size_t)inputs + 1) * sizeof *b->bounds);
    b->total = calloc(rows, sizeof *b->total);
    b->grown = malloc(rows * sizeof *b->grown);
    b->done = calloc((size_t)inputs, sizeof *b->done);
    b->complete = malloc(rows * sizeof *b->complete);
    b->found = malloc((size_t)width * sizeof *b->found);
    b->first = calloc(1, sizeof *b->first);
    b->step_room = 1;
    if (!table || !b->input || !b->bounds || !b->total || !b->grown || !b->done || !b->complete || !b->found || !b->first) {
        return CGRU_NO_MEMORY;
    }
    memcpy(table, divisor, ((size_t)most + 1) * sizeof *table);
    for (int64_t i = 0; i < inputs; i++) b->input[i] = b->bounds[i] = i;
    b->bounds[inputs] = inputs;
    return CGRU_OK;
}

void cgru_beams_clear(cgru_beams *b)
{
    void *const held[] = {(void *)b->divisor, b->input, b->bounds, b->total, b->grown, b->done, b->complete,
                          b->found, b->first, b->parent, b->token};
    for (size_t i = 0; i < sizeof held / sizeof *held; i++) free(held[i]);
    memset(b, 0, sizeof *b);
}

/* Room for another step. */
static int enlarge_history(cgru_beams *b)
{
    const int64_t used = b->first[b->steps] + b->groups * b->width;
    if (b->steps + 2 > b->step_room) {
        const int64_t room = 2 * (b->steps + 2);
        int64_t *const first = realloc(b->first, (size_t)room * sizeof *first);
        if (first == NULL) return CGRU_NO_ROOM;
        b->first = first, b->step_room = room;
    }
    if (used > b->room) {
        int32_t *const parent = realloc(b->parent, (size_t)(2 * used) * sizeof *parent);
        if (parent == NULL) return CGRU_NO_ROOM;
        b->parent = parent;
        int32_t *const token = realloc(b->token, (size_t)(2 * used) * sizeof *token);
        if (token == NULL) return CGRU_NO_ROOM;
        b->token = token, b->room = 2 * used;
    }
    return CGRU_CHOSEN;
}

/* Whether nothing that goes on, with `left` at best, can still be among the best: log-probabilities only fall. */
static int decided(const cgru_beams *b, int64_t input, double left)
{
    const double next = b->divisor[b->steps + 2], last = b->divisor[b->most];
    const double reach = left / (next > last ? next : last);
    int64_t ahead = 0;
    for (int64_t i = 0; i < b->done[input]; i++) ahead += b->complete[input * b->width + i].score >= reach;
    return ahead >= b->best;
}

int cgru_beams_step(cgru_beams *b, const cgru_scores *scores)
{
    if (enlarge_history(b)) return CGRU_NO_ROOM;
    const int64_t begun = b->first[b->steps], tokens = b->steps + 1;
    int32_t *const parent = b->parent + begun, *const token = b->token + begun;
    int64_t n = 0, kept = 0, first = b->bounds[0];
    b->moved = 0;
    for (int64_t g = 0; g < b->groups; g++) { /* input and bounds up to g are free for the groups that go on */
        const int64_t input = b->input[g], end = b->bounds[g + 1], start = n;
        ptrdiff_t count = 0;
        const int status = cgru_continuations(scores, first, end, b->total, b->width - b->done[input], b->found, &count);
        if (status != CGRU_CHOSEN) return status;
        for (ptrdiff_t i = 0; i < count; i++) {
            const cgru_continuation *c = &b->found[i];
            if (c->token == b->stop || tokens == b->most) {
                b->complete[input * b->width + b->done[input]++] =
                    (cgru_complete){c->score / b->divisor[tokens], b->steps, c->row, c->token};
            } else {
                parent[n] = (int32_t)c->row, token[n] = (int32_t)c->token;
                b->grown[n++] = c->score;
            }
        }
        if (n > start && decided(b, input, b->grown[start])) n = start;
        b->moved |= n - start != end - first;
        if (n > start) b->input[kept] = input, b->bounds[kept++] = start;
        first = end;
    }
    b->bounds[kept] = n;
    b->groups = kept, b->rows = n;
    double *const before = b->total;
    b->total = b->grown, b->grown = before;
    b->first[++b->steps] = begun + n;
    return CGRU_CHOSEN;
}

void cgru_beams_path(const cgru_beams *b, int64_t step, int64_t row, int64_t *tokens, int64_t *rows)
{
    for (int64_t s = step; s > 0; s--) {
        const int64_t at = b->first[s - 1] + row;
        if (rows) rows[s] = row;
        tokens[s - 1] = b->token[at];
        row = b->parent[at];
    }
    if (rows) rows[0] = row;
}
