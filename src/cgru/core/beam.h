/* Beam search between two steps: which sequences go on, which are complete, and by what tokens each came about. The network
 * that scores the tokens is the caller's to step. */
#ifndef CGRU_BEAM_H
#define CGRU_BEAM_H

#include "search.h"

/* A sequence that is complete: its score, and where its last token stands. */
typedef struct {
    double score;       /* Σ log p / divisor[tokens] */
    int64_t step, row;  /* the step that chose the last token, and the beam of that step which it continues */
    int64_t token;
} cgru_complete;

/* The best sequences of each input. Beams of an input are a group; groups lie one after the other, best beam first. */
typedef struct {
    int64_t inputs, width; /* beams of an input, at most */
    int64_t best;          /* complete sequences wanted of each */
    int64_t stop;          /* the token that completes one, or −1 */
    int64_t most;          /* steps at most: they complete what is left */
    const double *divisor; /* (most + 1), what a sum of so many log-probabilities is divided by */
    int64_t steps;         /* so far */
    int64_t rows, groups;  /* that go into the next step; none: the search is over */
    int moved;             /* whether the last step left a group with more beams or fewer than it had */
    int64_t *input;        /* (groups) which it is */
    int64_t *bounds;       /* (groups + 1) its first beam */
    double *total, *grown; /* (rows) Σ log p; and room for those after the step */
    int64_t *done;         /* (inputs) how many are complete */
    cgru_complete *complete;  /* (inputs, width), as they were found */
    cgru_continuation *found; /* (width) of a group */
    int64_t *first;           /* (steps + 1) where in parent and token the beams after each step begin */
    int32_t *parent, *token;  /* of every step's beams: the beam before it that each continues, and by what token */
    int64_t room, step_room;  /* numbers allocated of them */
} cgru_beams;

/* One beam an input. Returns CGRU_OK or CGRU_NO_MEMORY; cgru_beams_clear in either case. `divisor` is copied. */
int cgru_beams_start(cgru_beams *b, int64_t inputs, int64_t width, int64_t best, int64_t stop, int64_t most,
                     const double *divisor);
void cgru_beams_clear(cgru_beams *b);

enum { CGRU_NO_ROOM = CGRU_NO_NUMBERS + 1 };

/* A step by the scores of all beams: CGRU_CHOSEN, or, after which the search cannot go on, another status of search.h or
 * CGRU_NO_ROOM. A sequence that is complete leaves its beam, and a group leaves where nothing of it can be among the best. */
int cgru_beams_step(cgru_beams *b, const cgru_scores *scores);

/* The beams that the last step left: which of the beams before each continues, and by what token. (rows) */
static inline const int32_t *cgru_beams_parents(const cgru_beams *b)
{
    return b->parent + b->first[b->steps - 1];
}
static inline const int32_t *cgru_beams_tokens(const cgru_beams *b)
{
    return b->token + b->first[b->steps - 1];
}

/* How beam `row` of a step came about: the tokens (step) before it, and, unless rows is NULL, of each step from the first
 * to this one the beam (step + 1) that leads to it. */
void cgru_beams_path(const cgru_beams *b, int64_t step, int64_t row, int64_t *tokens, int64_t *rows);

#endif
