/* Attention: of each frame of a query, the frames of a key that match it, and the mean of a value's frames by how well.
 *
 * Scores are taken in blocks of KEYS, so that no sequence is too long for the scratch of a call: the largest score so far
 * and the sums move on from block to block (Milakov and Gimelshein 2018). One order of summation, whatever the chunk. */
#include <math.h>
#include <string.h>

#include "ops.h"

#define KEYS 64   /* scores at once */
#define PIECE 256 /* features at once where each goes through tanh */

enum { DOT, ADDITIVE };

static float sum_of_lanes(const float *sums)
{
    float s[CGRU_LANES];
    memcpy(s, sums, sizeof s);
    for (int n = CGRU_LANES / 2; n; n /= 2) {
        for (int l = 0; l < n; l++) s[l] += s[l + n];
    }
    return s[0];
}

/* Of so many frames of the key. Kind DOT: real[0] · q · k; ADDITIVE: Σ vector[1] · tanh(vector[0] · (q + k)). */
static void score(const cgru_job *job, float *scores, const float *q, const float *k, ptrdiff_t next, int count, int n)
{
    const cgru_gnode *node = job->node;
    if (node->kind == DOT) {
        job->graph->loops->products(scores, q, k, next, count, n);
        for (int j = 0; j < count; j++) scores[j] *= node->real[0];
        return;
    }
    for (int j = 0; j < count; j++, k += next) {
        float sums[CGRU_LANES] = {0.0f}, piece[PIECE];
        for (int at = 0; at < n; at += PIECE) {
            const int some = n - at < PIECE ? n - at : PIECE;
            const float *inner = node->vector[0] + at;
            for (int i = 0; i < some; i++) piece[i] = inner[i] * (q[at + i] + k[at + i]);
            job->graph->kernels->of[CGRU_FLOAT32]->activate(CGRU_TANH, piece, some);
            job->graph->loops->add_products(sums, piece, node->vector[1] + at, some);
        }
        scores[j] = sum_of_lanes(sums);
    }
}

/* What one row attends to. */
typedef struct {
    cgru_span key, value, mask; /* of the row: its first frame */
    int64_t frames;             /* that the row has */
} attended;

static attended row_of(const cgru_job *job, int r, int weights_alone)
{
    const int m = weights_alone ? 2 : 3;
    attended a = {.key = job->in[1], .frames = job->key_lengths ? job->key_lengths[r] : job->in_frames[1]};
    a.key.data = cgru_frame(&job->in[1], r, 0);
    if (!weights_alone) a.value = job->in[2], a.value.data = cgru_frame(&job->in[2], r, 0);
    if (job->node->inputs > m && job->in[m].data) a.mask = job->in[m], a.mask.data = cgru_frame(&job->in[m], r, 0);
    return a;
}

static int counts(const attended *a, int64_t s)
{
    return a->mask.data == NULL || a->mask.data[s * a->mask.frame] != 0.0f;
}

/* How many frames of the key from s on, at most `most`, are as the first of them: they count, or they do not. */
static int alike(const attended *a, int64_t s, int most)
{
    int n = a->mask.data ? 1 : most;
    while (n < most && counts(a, s + n) == counts(a, s)) n++;
    return n;
}

static int64_t frames_shown(const cgru_job *job, const attended *a, int64_t f)
{
    return job->node->flag && job->at + f + 1 < a->frames ? job->at + f + 1 : a->frames;
}

/* The scores of `count` frames of the key from s on, but for those that do not count; the largest of them and of `most`. */
static float score_frames(const cgru_job *job, const attended *a, const float *q, int64_t s, int count, float *scores,
                          float most)
{
    const int n = job->graph->values[job->node->in[0]].size;
    for (int i = 0, run; i < count; i += run) {
        run = alike(a, s + i, count - i);
        if (!counts(a, s + i)) continue;
        score(job, scores + i, q, a->key.data + (s + i) * a->key.frame, a->key.frame, run, n);
        for (int j = i; j < i + run; j++) {
            if (!(scores[j] <= most)) most = scores[j];
        }
    }
    return most;
}

static void run_attend(const cgru_job *job)
{
    const int wide = job->graph->values[job->node->out].size;
    float scores[KEYS];
    for (int r = 0; r < job->rows; r++) {
        const attended a = row_of(job, r, 0);
        for (int64_t f = 0; f < job->frames; f++) {
            const float *q = cgru_frame(&job->in[0], r, f);
            float *y = cgru_frame(&job->out, r, f);
            float top = -INFINITY, total = 0.0f;
            const int64_t end = frames_shown(job, &a, f);
            memset(y, 0, (size_t)wide * sizeof(float));
            for (int64_t from = 0; from < end; from += KEYS) {
                const int count = end - from < KEYS ? (int)(end - from) : KEYS;
                const float most = score_frames(job, &a, q, from, count, scores, top);
                if (most == -INFINITY) continue;
                if (most != top && top != -INFINITY) {
                    const float scale = expf(top - most);
                    total *= scale;
                    for (int j = 0; j < wide; j++) y[j] *= scale;
                }
                top = most;
                for (int i = 0, run; i < count; i += run) {
                    run = alike(&a, from + i, count - i);
                    if (!counts(&a, from + i)) continue;
                    for (int j = i; j < i + run; j++) total += scores[j] = expf(scores[j] - top);
                    const float *v = a.value.data + (from + i) * a.value.frame;
                    job->graph->loops->add_weighted(y, v, a.value.frame, scores + i, run, wide);
                }
            }
            if (total == 0.0f) continue;
            for (int j = 0; j < wide; j++) y[j] /= total;
        }
    }
}

/* The weights themselves, one of each frame of the key, and zeros behind them. */
static void run_attend_weights(const cgru_job *job)
{
    const int room = job->graph->values[job->node->out].size;
    for (int r = 0; r < job->rows; r++) {
        const attended a = row_of(job, r, 1);
        for (int64_t f = 0; f < job->frames; f++) {
            float *y = cgru_frame(&job->out, r, f), total = 0.0f;
            const int end = a.frames < room ? (int)a.frames : room;
            memset(y, 0, (size_t)room * sizeof(float));
            const float top = score_frames(job, &a, cgru_frame(&job->in[0], r, f), 0, end, y, -INFINITY);
            for (int s = 0; s < end; s++) {
                if (counts(&a, s)) total += y[s] = expf(y[s] - top);
            }
            for (int s = 0; s < end; s++) {
                if (counts(&a, s)) y[s] /= total;
            }
        }
    }
}

static int check_scores(const cgru_graph *g, const cgru_gnode *node, int mask_at)
{
    const cgru_value *q = cgru_input_of(g, node, 0), *k = cgru_input_of(g, node, 1), *mask = cgru_input_of(g, node, mask_at);
    if (!q || !k || q->content != CGRU_FEATURES || k->content != CGRU_FEATURES || q->size != k->size) return 0;
    if (q->clock == CGRU_ONCE || k->clock == CGRU_ONCE || g->values[node->out].clock != q->clock) return 0;
    if (!cgru_mask_fits(mask, k)) return 0;
    if (!node->op->whole && (k->clock != CGRU_STATIC || node->flag)) return 0;
    if (node->kind == DOT) return 1;
    return node->kind == ADDITIVE && cgru_vector_fits(node, 0, q->size, 0) && cgru_vector_fits(node, 1, q->size, 0);
}

static int check_attend(const cgru_graph *g, const cgru_gnode *node)
{
    const cgru_value *k = cgru_input_of(g, node, 1), *v = cgru_input_of(g, node, 2);
    return check_scores(g, node, 3) && v && v->content == CGRU_FEATURES && v->clock == k->clock &&
           v->size == g->values[node->out].size;
}

static int check_attend_weights(const cgru_graph *g, const cgru_gnode *node)
{
    return check_scores(g, node, 2);
}

/* The frames of the key are not known before the call. */
static int64_t cost_of_scores(const cgru_graph *g, const cgru_gnode *node)
{
    return KEYS * ((int64_t)g->values[node->in[0]].size + g->values[node->out].size);
}

/* flag: causal. In attend_whole the key may advance with the query, so its last frames must be there. */
const cgru_op cgru_op_attend = {"attend", 0, 0, check_attend, run_attend, .share = CGRU_BY_QUERIES, .cost = cost_of_scores};
const cgru_op cgru_op_attend_whole = {"attend_whole", 1, 0, check_attend, run_attend, .share = CGRU_BY_QUERIES,
                                      .cost = cost_of_scores};
const cgru_op cgru_op_attend_weights = {"attend_weights", 0, 0, check_attend_weights, run_attend_weights,
                                        .share = CGRU_BY_QUERIES, .cost = cost_of_scores};
