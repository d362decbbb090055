/* A call of a graph: what is checked first, how its rows are divided among threads, and the scratch that calls which step
 * find laid out.
 *
 * Threads take rows of their own. Where there are more of them than rows, each row has a team. */
#include <stdlib.h>
#include <string.h>

#include "fpmode.h"
#include "graph_run.h"
#include "memory.h"
#include "work.h"

#define BLOCK_ROWS 64      /* rows taken together at most */
#define KEPT_STEPS 64      /* of a call whose plan is kept, at most */
#define KEPT_STATIC 8      /* inputs given once that a kept plan may have */
#define LANES 4            /* recurrences that run at the same time, at most */

/* ---- what is checked ------------------------------------------------------------------------------------------------ */

static int check_call(const cgru_graph *g, const cgru_graph_call *call)
{
    const int status = cgru_check_rows(call->rows, call->steps, call->lengths, call->index, call->state_rows);
    if (status != CGRU_OK) return status;
    for (int v = 0; v < g->inputs; v++) {
        if (call->inputs[v].data == NULL && g->values[v].content != CGRU_MASK && call->steps > 0) return CGRU_BAD_PORT;
    }
    for (int i = 0; i < g->count; i++) { /* every table that an input's ids are looked up in */
        const cgru_gnode *node = &g->nodes[i];
        if (node->table.values == NULL || node->in[0] >= g->inputs) continue;
        const cgru_port *port = &call->inputs[node->in[0]];
        int clock = g->values[node->in[0]].clock;
        int64_t frames = clock == CGRU_STEPS ? call->steps : clock == CGRU_STATIC ? port->frames : 1;
        const int column = node->number[1], many = column < 0 ? g->values[node->in[0]].size : 1;
        for (int64_t r = 0; r < call->rows; r++) {
            for (int64_t f = 0; f < frames; f++) {
                const int64_t *ids = (const int64_t *)port->data + r * port->row + f * port->frame + (column < 0 ? 0 : column);
                for (int i = 0; i < many; i++) {
                    if (ids[i] < 0 || ids[i] >= node->number[0]) return CGRU_BAD_ID;
                }
            }
        }
    }
    return CGRU_OK;
}

/* Whether each output has room for just the frames that come, and sequences that are folded have the length for it. */
static int check_frames(const cgru_graph *g, const cgru_graph_call *call)
{
    int64_t *frames = malloc((size_t)g->value_count * 2 * sizeof *frames), *end = frames + g->value_count;
    if (frames == NULL) return CGRU_NO_MEMORY;
    cgru_count_frames(g, call, call->before, 0, frames);
    cgru_count_frames(g, call, call->before + call->steps, call->ended, end);
    int status = CGRU_OK;
    for (int o = 0; o < g->output_count; o++) {
        int v = g->outputs[o];
        int64_t come = g->values[v].clock == CGRU_STEPS ? end[v] - frames[v] : end[v];
        if (come != call->outputs[o].frames) status = CGRU_BAD_PORT;
    }
    for (int64_t r = 0; g->folds && r < (call->lengths ? call->rows : 1); r++) {
        cgru_count_frames(g, call, call->before + (call->lengths ? call->lengths[r] : call->steps), call->ended, end);
        for (int i = 0; i < g->count; i++) {
            const int *number = g->nodes[i].number;
            const int64_t found = g->nodes[i].op->fold ? end[g->nodes[i].in[0]] : 0;
            if (found != 0 && (number[1] ? found < number[0] : found != number[0])) status = CGRU_BAD_LENGTH;
        }
    }
    free(frames);
    return status;
}

/* Whether what counts frames has some left for those that come to each row. */
static int check_counts(const cgru_graph *g, const cgru_graph_call *call)
{
    int64_t *frames = malloc((size_t)g->value_count * 2 * sizeof *frames), *end = frames + g->value_count;
    if (frames == NULL) return CGRU_NO_MEMORY;
    int status = CGRU_OK;
    cgru_count_frames(g, call, call->before, 0, frames);
    for (int64_t r = 0; r < call->rows && status == CGRU_OK; r++) {
        if (r == 0 || call->lengths)
            cgru_count_frames(g, call, call->before + (call->lengths ? call->lengths[r] : call->steps), call->ended, end);
        const float *state = call->state + (call->index ? call->index[r] : r) * call->state_row;
        for (int i = 0; i < g->count; i++) {
            const cgru_gnode *node = &g->nodes[i];
            if (!node->op->counts) continue;
            const float had = state[node->offset]; /* of a state that a caller wrote into, anything */
            if (!(had >= 0.0f && had <= (float)node->number[0]) ||
                (int64_t)had + end[node->out] - frames[node->out] > node->number[0])
                status = CGRU_NO_POSITION;
        }
    }
    free(frames);
    return status;
}

/* ---- blocks and threads ----------------------------------------------------------------------------------------------- */

typedef struct {
    const cgru_graph *graph;
    const cgru_graph_call *call;
    int threads, parts; /* of a team; of its rows, each with members of its own */
    int rows;           /* of a block at most */
    char *memory;       /* room.shared for each part, then room.own for each member */
    graph_room room;
    cgru_stop *stop;
} graph_task;

/* A block that is not laid out yet. Chunks are the same in every block: fewer rows take less. */
static graph_block block_of(const graph_task *task, int64_t first, int rows, cgru_member member)
{
    const int members = (task->threads + task->parts - 1) / task->parts;
    int lanes = task->graph->beside < members ? task->graph->beside : members;
    if (lanes > LANES) lanes = LANES;
    return (graph_block){.graph = task->graph, .call = task->call, .first = first, .rows = rows, .member = member,
                         .lanes = lanes > 1 ? lanes : 1,
                         .chunk = cgru_chunk_steps(task->graph, task->rows, task->call->steps, members)};
}

static void run_rows(void *what, cgru_member member)
{
    const graph_task *task = what;
    const int parts = task->parts < member.size ? task->parts : member.size; /* fewer threads came than were asked for */
    const int64_t rows = task->call->rows;
    const int rank = member.rank;
    int part;
    member.stop = task->stop;
    if (parts == member.size) part = rank, member = cgru_alone, member.stop = task->stop;
    else if (parts == 1) part = 0;
    else member = cgru_team_split(member, parts, &part);
    cgru_fpmode mode = cgru_flush_subnormals();
    const int64_t end = rows * (part + 1) / parts;
    for (int64_t first = rows * part / parts; first < end; first += task->rows) {
        graph_block b = block_of(task, first, (int)(end - first < task->rows ? end - first : task->rows), member);
        if (b.lanes > member.size) b.lanes = member.size;
        cgru_prepare_block(&b, task->memory + task->room.shared * (size_t)part,
                           task->memory + task->room.shared * (size_t)task->parts + task->room.own * (size_t)rank);
        b.asks = rank == 0;
        cgru_run_graph_block(&b);
        if (cgru_team_wait(member)) break;
    }
    cgru_restore_fpmode(mode);
}

/* How many of the threads asked for are worth waking, and of how many parts their rows are. No result depends on it. */
static void plan_threads(graph_task *task)
{
    const cgru_graph *g = task->graph;
    const cgru_graph_call *call = task->call;
    const double share = (double)g->work * (double)call->rows * (double)(call->steps + 1) / CGRU_WAKE_WORK;
    int64_t threads = call->threads < CGRU_MAX_TEAM ? call->threads : CGRU_MAX_TEAM, members = 1;
    if ((double)threads > share) threads = (int64_t)share;
    if (threads > call->rows) { /* members that the node with the most to do is worth */
        const int64_t chunk = cgru_chunk_steps(g, 1, call->steps, 1);
        for (int i = 0; i < g->count; i++) {
            const int together = g->nodes[i].op->share;
            if (together == CGRU_BY_ONE || (together != CGRU_TOGETHER && together != CGRU_BY_STEPS && chunk == 1)) continue;
            const int64_t worth = cgru_members_worth(g->cost[i] * (together == CGRU_BY_STEPS ? 1 : chunk));
            if (worth > members) members = worth;
        }
        if (g->beside > 1 && call->steps > 2 * WAVE_STEPS) members *= 2;
        if (threads > call->rows * members) threads = call->rows * members;
    }
    task->threads = threads > 1 ? (int)threads : 1;
    task->parts = call->rows < task->threads ? (int)call->rows : task->threads;
}

/* ---- calls that step ------------------------------------------------------------------------------------------------------ */

/* Whether a call leaves its scratch laid out for the next, and what must be the same then: calls that step come again and
 * again with the same sizes. Frames of a steady graph do not depend on the steps before. */
typedef struct {
    int64_t rows, steps;
    uint64_t given; /* which inputs are there */
    int64_t frames[KEPT_STATIC]; /* of those with a time axis of their own, in their order */
    int lengths;
    graph_block block;
} kept_plan;

static kept_plan plan_of(const cgru_graph *g, const cgru_graph_call *call)
{
    kept_plan plan = {.rows = call->rows, .steps = call->steps, .lengths = call->lengths != NULL};
    for (int v = 0, of = 0; v < g->inputs; v++) {
        plan.given |= (uint64_t)(call->inputs[v].data != NULL) << v;
        if (g->values[v].clock == CGRU_STATIC) plan.frames[of++] = call->inputs[v].frames;
    }
    return plan;
}

static int keeps_plan(const cgru_graph *g, const cgru_graph_call *call)
{
    if (!g->even || call->rows > BLOCK_ROWS || call->steps > KEPT_STEPS || g->inputs > 64) return 0;
    int own = 0;
    for (int v = 0; v < g->inputs; v++) own += g->values[v].clock == CGRU_STATIC;
    return own <= KEPT_STATIC;
}

/* One block in the caller's thread, whose scratch is kept laid out. */
static int run_kept(const cgru_graph *graph, const cgru_graph_call *call, cgru_work *work)
{
    const size_t head = (sizeof(kept_plan) + CGRU_ALIGN - 1) / CGRU_ALIGN * CGRU_ALIGN;
    const kept_plan wanted = plan_of(graph, call);
    kept_plan *plan = cgru_work_memory(work);
    unsigned long long *planned = cgru_work_planned(work);
    if (*planned != graph->scans->serial || plan->rows != wanted.rows || plan->steps != wanted.steps ||
        plan->given != wanted.given || plan->lengths != wanted.lengths ||
        memcmp(plan->frames, wanted.frames, sizeof wanted.frames) != 0) {
        const graph_task task = {.graph = graph, .call = call, .threads = 1, .parts = 1, .rows = (int)call->rows};
        graph_block b = block_of(&task, 0, task.rows, cgru_alone);
        const graph_room room = cgru_prepare_block(&b, NULL, NULL);
        char *memory = room.own ? cgru_work_reserve(work, head + room.shared + room.own) : NULL;
        if (memory == NULL) return CGRU_NO_MEMORY;
        plan = (kept_plan *)memory;
        *plan = wanted;
        plan->block = block_of(&task, 0, task.rows, cgru_alone);
        cgru_prepare_block(&plan->block, memory + head, memory + head + room.shared);
        *planned = graph->scans->serial;
    }
    plan->block.call = call;
    cgru_fpmode mode = cgru_flush_subnormals();
    cgru_run_graph_block(&plan->block);
    cgru_restore_fpmode(mode);
    return CGRU_OK;
}

int cgru_graph_run(const cgru_graph *graph, const cgru_graph_call *call, cgru_work *work)
{
    if (call->rows == 0) return CGRU_OK;
    int status = check_call(graph, call);
    if (status == CGRU_OK && (!graph->even || graph->folds || call->steps != 1)) status = check_frames(graph, call);
    if (status == CGRU_OK && graph->counts) status = check_counts(graph, call);
    if (status != CGRU_OK) return status;
    if (call->threads == 1 && !call->interrupted && keeps_plan(graph, call)) return run_kept(graph, call, work);
    cgru_stop stop = {.interrupted = call->interrupted};
    if (call->interrupted) stop.asked = cgru_clock();
    graph_task task = {.graph = graph, .call = call, .stop = call->interrupted ? &stop : NULL};
    plan_threads(&task);
    const int64_t most = (call->rows + task.parts - 1) / task.parts;
    task.rows = (int)(most < BLOCK_ROWS ? most : BLOCK_ROWS);
    graph_block b = block_of(&task, 0, task.rows, cgru_alone);
    task.room = cgru_prepare_block(&b, NULL, NULL);
    const size_t parts = (size_t)task.parts, threads = (size_t)task.threads;
    if (task.room.own == 0 || task.room.shared > SIZE_MAX / 2 / parts || task.room.own > SIZE_MAX / 2 / threads)
        return CGRU_NO_MEMORY;
    task.memory = cgru_work_reserve(work, task.room.shared * parts + task.room.own * threads);
    if (task.memory == NULL) return CGRU_NO_MEMORY;
    if (threads == 1) run_rows(&task, cgru_alone);
    else cgru_team_run(task.threads, run_rows, &task);
    return cgru_stopped(task.stop) ? CGRU_INTERRUPTED : CGRU_OK;
}
