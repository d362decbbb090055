#include "net.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "block.h"
#include "memory.h"

#define ALIGN_FLOATS 16

int cgru_needs_whole(const cgru_node *node)
{
    return node->kind == CGRU_RECURRENT && (node->directions > 1 || node->direction[0].reverse);
}

int cgru_segment_end(const cgru_net *net, int i)
{
    if (cgru_needs_whole(&net->nodes[i])) return i + 1;
    while (i < net->count && !cgru_needs_whole(&net->nodes[i])) {
        const cgru_node *node = &net->nodes[i++];
        if (node->kind == CGRU_RECURRENT && !node->sequences) break;
    }
    return i;
}

int64_t cgru_matrix_cost(const cgru_matrix *m)
{
    static const int share[CGRU_PRECISIONS] = {4, 1, 2, 2, 3};
    return ((int64_t)m->out_features * m->gates * m->in_features * share[m->precision] + 3) / 4;
}

size_t cgru_prepared_bytes(const cgru_matrix *m)
{
    const size_t bytes = m->in_features && m->arithmetic->prepared ? m->arithmetic->prepared(m) : 0;
    return (bytes + CGRU_ALIGN - 1) / CGRU_ALIGN * CGRU_ALIGN;
}

void cgru_widen_prepared(size_t *most, const cgru_matrix *m)
{
    const size_t bytes = cgru_prepared_bytes(m);
    if (bytes > *most) *most = bytes;
}

int64_t cgru_net_cost(const cgru_net *net)
{
    return net->work;
}

cgru_net *cgru_net_new(const cgru_kernels *kernels, const cgru_node *nodes, int count)
{
    static atomic_ullong made;
    cgru_net *net = calloc(1, sizeof *net + (size_t)count * sizeof *nodes);
    if (net == NULL) return NULL;
    net->kernels = kernels;
    net->serial = atomic_fetch_add_explicit(&made, 1, memory_order_relaxed) + 1;
    net->count = count;
    net->parallel = net->direct = 1;
    memcpy(net->nodes, nodes, (size_t)count * sizeof *nodes);
    for (int i = 0, layers = 0; i < count; i++) {
        const cgru_node *node = &nodes[i];
        if (node->out > net->widest) net->widest = node->out;
        if (node->kind == CGRU_DENSE) {
            net->work += cgru_matrix_cost(node->matrix);
            cgru_widen_prepared(&net->prepared, node->matrix);
        }
        layers = cgru_needs_whole(node) ? 0 : layers + (node->kind == CGRU_RECURRENT);
        if (layers > net->parallel) net->parallel = layers < MAX_STAGES ? layers : MAX_STAGES;
        if (node->kind == CGRU_RECURRENT && node->directions > net->parallel) net->parallel = node->directions;
        net->masks |= node->kind == CGRU_MASKING || (node->kind == CGRU_EMBEDDING && node->mask_zero);
        if (net->masks || cgru_needs_whole(node) || (node->kind == CGRU_RECURRENT && !node->sequences)) net->direct = 0;
        for (int d = 0; node->kind == CGRU_RECURRENT && d < node->directions; d++) {
            const cgru_scan *scan = node->direction[d].scan;
            int units = scan->panels * kernels->vl, gates = units * scan->x.gates;
            if (gates > net->projection) net->projection = gates;
            if (units > net->hidden) net->hidden = units;
            int64_t step = cgru_matrix_cost(&scan->h) + cgru_matrix_cost(&scan->phase1);
            if (step > net->widest_step) net->widest_step = step;
            net->work += step + cgru_matrix_cost(&scan->x);
            cgru_widen_prepared(&net->prepared, &scan->x);
            cgru_widen_prepared(&net->prepared, &scan->h);
            cgru_widen_prepared(&net->prepared, &scan->phase1);
        }
    }
    net->hidden = (net->hidden + ALIGN_FLOATS - 1) / ALIGN_FLOATS * ALIGN_FLOATS;
    return net;
}

void cgru_net_free(cgru_net *net)
{
    free(net);
}
