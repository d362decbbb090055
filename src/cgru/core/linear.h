/* Dense layers and input projections, on what a precision's kernels define before:
 *
 * linear_sums(sums, m, rows, r0, n, p0, panels): sums[row][panel] = bias and product, of a matrix without gates;
 * project_tile(G, m, rows, r0, n, p0, panels): the same for G gates, in rows->out as the steps read them;
 * prepare_rows(m, n, v, quantized_input): done once before the tiles. */
static void linear_tile(const void *what, const void *given, int r0, int n, int p0, int panels)
{
    const cgru_matrix *m = what;
    const linear_rows *rows = given;
#ifdef STORES_TILES
    if (store_linear(m, rows, r0, n, p0, panels)) return;
#endif
    float sums[MOST_SUMS * VL];
    linear_sums(sums, m, rows, r0, n, p0, panels);
    for (int r = 0; r < n; r++) {
        for (int p = 0; p < panels; p++) {
            int unit = (p0 + p) * VL, left = m->out_features - unit;
            vec y = v_activate(rows->activation, v_load(sums + (r * panels + p) * VL));
            if (left >= VL) v_store(rows->out[r0 + r] + unit, y);
            else v_store_part(rows->out[r0 + r] + unit, y, left);
        }
    }
}

static void NAME(cgru_linear)(const cgru_matrix *m, int activation, int n, const float *const *v, float *const *out,
                              cgru_prepared quantized_input, int p0, int p1)
{
    linear_rows rows = {activation, v, out, quantized_input};
    prepare_rows(m, n, v, quantized_input);
    for_tiles(linear_tile, m, &rows, 1, planes_of(m), n, p0, p1, 0, 0);
}

#define PROJECT_TILE(G)                                                                                                \
    static void project##G##_tile(const void *what, const void *given, int r0, int n, int p0, int panels)              \
    {                                                                                                                  \
        project_tile(G, what, given, r0, n, p0, panels);                                                               \
    }
PROJECT_TILE(1)
PROJECT_TILE(2)
PROJECT_TILE(3)
PROJECT_TILE(4)

static void NAME(cgru_project)(const cgru_matrix *m, int n, const float *const *v, float *const *out,
                               cgru_prepared quantized_input, int p0, int p1)
{
    linear_rows rows = {CGRU_LINEAR, v, out, quantized_input};
    prepare_rows(m, n, v, quantized_input);
    switch (m->gates) {
    case 1:
        for_tiles(project1_tile, m, &rows, 1, planes_of(m), n, p0, p1, 0, 0);
        break;
    case 2:
        for_tiles(project2_tile, m, &rows, 2, planes_of(m), n, p0, p1, 0, 0);
        break;
    case 3:
        for_tiles(project3_tile, m, &rows, 3, planes_of(m), n, p0, p1, 0, 0);
        break;
    default:
        for_tiles(project4_tile, m, &rows, 4, planes_of(m), n, p0, p1, 0, 0);
    }
}
