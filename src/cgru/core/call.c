/* A call: how its rows are cut into blocks, how many threads take part, and the scratch they work in. */
#include <stdlib.h>
#include <string.h>

#include "block.h"
#include "fpmode.h"
#include "memory.h"
#include "work.h"

#define BLOCK_ROWS 128         /* rows taken together at most */
#define CHUNK_ROWS 256         /* rows times steps of a chunk at most, beyond one step */
#define CHUNK_FLOATS (1 << 18) /* of projected input in a chunk, beyond one step: 1 MiB */

/* ---- scratch ---------------------------------------------------------------------------------------------------- */

static int chunk_steps(const cgru_net *net, int rows, int64_t steps)
{
    int64_t by_rows = CHUNK_ROWS / rows, by_floats = CHUNK_FLOATS / ((int64_t)rows * (net->projection + 1));
    int64_t chunk = by_rows < by_floats ? by_rows : by_floats;
    if (chunk < 8) chunk = 8 < by_rows ? 8 : by_rows;
    if (chunk < 1) chunk = 1;
    return (int)(chunk < steps ? chunk : steps > 0 ? steps : 1);
}

/* Lays the block's scratch out from the arena; with a NULL arena it only counts. Pointers that members fill with the
 * same values each for itself are per member; all else is shared. */
static void lay_out(block *b, cgru_arena *a, int member)
{
    const cgru_net *net = b->net;
    size_t steps = b->steps > 0 ? (size_t)b->steps : 1, rows = b->rows;
    /* Rows times steps of a chunk: as many as any block of at most this many rows may take. */
    size_t many = rows > CHUNK_ROWS ? rows : CHUNK_ROWS;
    if (many > rows * steps) many = rows * steps;
    int masked = net->masks || b->call->lengths || b->call->mask, segments = 0, paired = 0;
    for (int i = 0; i < net->count; i = cgru_segment_end(net, i)) segments++;
    for (int i = 0; i < net->count; i++) {
        const cgru_node *node = &net->nodes[i];
        paired |= node->kind == CGRU_RECURRENT && node->directions > 1 && node->merge != CGRU_CONCAT;
    }
    cgru_arena shared = *a;
    b->valid = masked ? cgru_take(&shared, rows * steps) : NULL;
    for (int i = 0; i < 2; i++)
        b->whole[i] = segments > 1 + i ? cgru_take(&shared, rows * steps * net->widest * sizeof(float)) : NULL;
    b->pair = paired ? cgru_take(&shared, rows * steps * net->widest * sizeof(float)) : NULL;
    const int stages = b->stages > 2 ? b->stages : 2;
    for (int i = 0; i < stages; i++) {
        stage_scratch *l = &b->scratch[i];
        for (int k = 0; k < 2; k++) {
            size_t chunk_buffer = net->count > 1 ? many * net->widest * sizeof(float) : 0;
            l->chunk_buffer[k] = cgru_take(&shared, chunk_buffer);
            l->stage_buffer[k] = cgru_take(&shared, b->stages > 1 ? chunk_buffer : 0);
        }
        cgru_take_shared(net, l, rows, many, &shared);
    }
    *a = shared;
    for (int m = 0; m <= member; m++) {
        for (int i = 0; i < stages; i++) {
            cgru_take_own(net, &b->scratch[i], rows, many, a);
        }
    }
}

/* ---- threads and blocks -------------------------------------------------------------------------------------------- */

typedef struct {
    const cgru_net *net;
    const cgru_call *call;
    int threads, by_rows; /* each member takes rows of its own */
    int rows;             /* of a block at most */
    char *memory;
    size_t bytes; /* of it: for each member by rows, else for all of them */
    cgru_stop *stop;
} whole_call;

static block block_of(const whole_call *whole, int64_t first, int64_t left, cgru_member member)
{
    const cgru_net *net = whole->net;
    int rows = (int)(left < whole->rows ? left : whole->rows), chunk = chunk_steps(net, rows, whole->call->steps);
    return (block){.net = net,
                   .call = whole->call,
                   .first = first,
                   .rows = rows,
                   .chunk = chunk,
                   .whole_chunk = chunk,
                   .steps = whole->call->steps,
                   .whole_steps = whole->call->steps,
                   .lengths = whole->call->lengths ? whole->call->lengths + first : NULL,
                   .stages = whole->by_rows || whole->threads == 1 ? 1 : net->parallel,
                   .member = member};
}

static void run_call(void *what, cgru_member member)
{
    const whole_call *whole = what;
    cgru_fpmode mode = cgru_flush_subnormals();
    int64_t first = 0, end = whole->call->rows;
    char *memory = whole->memory;
    const int asks = member.rank == 0;
    if (whole->by_rows) {
        first = end * member.rank / member.size;
        end = whole->call->rows * (member.rank + 1) / member.size;
        memory += whole->bytes * (size_t)member.rank;
        member = cgru_alone;
    }
    member.stop = whole->stop;
    for (; first < end; first += whole->rows) {
        block b = block_of(whole, first, end - first, member);
        cgru_arena a = {memory, 0};
        lay_out(&b, &a, member.rank);
        b.asks = asks;
        if (cgru_run_block(&b)) break;
    }
    cgru_restore_fpmode(mode);
}

/* How many of the threads asked for are worth waking, and whether each takes rows of its own (then there is nothing to
 * wait for) or all work on every row. No result depends on it. */
static void plan_threads(whole_call *whole)
{
    const cgru_net *net = whole->net;
    const cgru_call *call = whole->call;
    int64_t threads = call->threads < CGRU_MAX_TEAM ? call->threads : CGRU_MAX_TEAM;
    double work = (double)net->work * (double)call->rows * (double)call->steps;
    if (work / CGRU_WAKE_WORK < (double)threads) threads = (int64_t)(work / CGRU_WAKE_WORK);
    whole->by_rows = threads > 1 && call->rows >= 4 * threads;
    if (!whole->by_rows) {
        int64_t rows = call->rows < BLOCK_ROWS ? call->rows : BLOCK_ROWS;
        int64_t apart = call->steps > 2 * WAVE_STEPS ? net->parallel : 1;
        int64_t together = apart * (1 + rows * net->widest_step / (2 * CGRU_SHARE_WORK));
        if (together < threads) threads = together;
    }
    whole->threads = threads > 1 ? (int)threads : 1;
}

/* One block in the caller's thread, whose scratch is kept laid out. */
static int run_alone(const cgru_net *net, const cgru_call *call, cgru_work *work, cgru_stop *stop)
{
    const size_t head = (sizeof(block) + CGRU_ALIGN - 1) / CGRU_ALIGN * CGRU_ALIGN;
    const int masked = call->lengths || call->mask || net->masks;
    block *plan = cgru_work_memory(work);
    unsigned long long *planned = cgru_work_planned(work);
    if (*planned != net->serial || plan->rows != call->rows || plan->whole_steps != call->steps ||
        (plan->mask != NULL) != masked) {
        const whole_call whole = {.net = net, .call = call, .threads = 1, .rows = (int)call->rows};
        block b = block_of(&whole, 0, call->rows, cgru_alone);
        cgru_arena a = {NULL, 0};
        lay_out(&b, &a, 0);
        plan = cgru_work_reserve(work, head + a.used);
        if (plan == NULL) return CGRU_NO_MEMORY;
        a = (cgru_arena){(char *)plan + head, 0};
        lay_out(&b, &a, 0);
        b.mask = b.valid;
        *plan = b;
        *planned = net->serial;
    }
    plan->call = call;
    plan->lengths = call->lengths;
    plan->steps = plan->whole_steps;
    plan->chunk = plan->whole_chunk;
    plan->valid = plan->mask;
    plan->member.stop = stop;
    plan->asks = 1;
    cgru_fpmode mode = cgru_flush_subnormals();
    cgru_run_block(plan);
    plan->member.stop = NULL;
    cgru_restore_fpmode(mode);
    return CGRU_OK;
}

/* Everything the runner takes for an index, or for a number of steps. */
static int check(const cgru_net *net, const cgru_call *call)
{
    const int status = cgru_check_rows(call->rows, call->steps, call->lengths, call->index, call->state_rows);
    if (status != CGRU_OK) return status;
    if (net->nodes[0].kind != CGRU_EMBEDDING) return CGRU_OK;
    const int64_t *ids = call->x, entries = net->nodes[0].in;
    for (int64_t r = 0; r < call->rows; r++) {
        for (int64_t t = 0; t < call->steps; t++) {
            int64_t id = ids[r * call->x_row + t * call->x_step];
            if (id < 0 || id >= entries) return CGRU_BAD_ID;
        }
    }
    return CGRU_OK;
}

int cgru_net_run(const cgru_net *net, const cgru_call *call, cgru_work *work)
{
    if (call->rows == 0) return CGRU_OK;
    const int status = check(net, call);
    if (status != CGRU_OK) return status;
    if (call->threads <= 1 && !call->interrupted && call->rows <= BLOCK_ROWS) return run_alone(net, call, work, NULL);
    cgru_stop stop = {.interrupted = call->interrupted};
    if (call->interrupted) stop.asked = cgru_clock();
    whole_call whole = {.net = net, .call = call, .threads = 1, .stop = call->interrupted ? &stop : NULL};
    if (call->threads > 1) plan_threads(&whole);
    if (whole.threads == 1 && call->rows <= BLOCK_ROWS) {
        const int failed = run_alone(net, call, work, whole.stop);
        return failed ? failed : cgru_stopped(whole.stop) ? CGRU_INTERRUPTED : CGRU_OK;
    }
    /* Where fewer threads come than are asked for, each has more blocks, not more rows in one. */
    const int64_t rows = whole.by_rows ? (call->rows + whole.threads - 1) / whole.threads : call->rows;
    whole.rows = (int)(rows < BLOCK_ROWS ? rows : BLOCK_ROWS);
    block b = block_of(&whole, 0, rows, cgru_alone);
    cgru_arena a = {NULL, 0};
    lay_out(&b, &a, whole.by_rows ? 0 : whole.threads - 1);
    whole.bytes = a.used;
    whole.memory = cgru_work_reserve(work, whole.bytes * (size_t)(whole.by_rows ? whole.threads : 1));
    if (whole.memory == NULL) return CGRU_NO_MEMORY;
    if (whole.threads == 1) run_call(&whole, cgru_alone);
    else cgru_team_run(whole.threads, run_call, &whole);
    return cgru_stopped(whole.stop) ? CGRU_INTERRUPTED : CGRU_OK;
}
