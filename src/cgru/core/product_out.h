/* What a tile of a reduced precision ends with. */

/* Row r's sums, [panel][gate][vl] without gaps, are added to base[r], whose panels are `step` floats apart; base
 * NULL: to nothing. Where a unit's third sum has a base of its own, it is in separate_candidate_bias, a vector for each panel. */
typedef struct {
    const float *base[TILE_ROWS];
    float *sums[TILE_ROWS];
    ptrdiff_t step;
    const float *separate_candidate_bias;
} tile_out;

/* `name`: the sums of `acc`, which are complete. Where what follows reads acc itself, between branches, clang 14 stores
 * the sums of many tiles at every step of the product (tools/read_loops.py shows it); for clang they go to memory here,
 * once. */
#ifdef __clang__
#define COMPLETED(type, name, acc, count)                                                                              \
    type name[MOST_SUMS];                                                                                              \
    UNROLL for (int done = 0; done < (count); done++) name[done] = acc[done];                                          \
    __asm__("" : "+m"(*(type(*)[count])name));
#else
#define COMPLETED(type, name, acc, count) const type *const name = acc;
#endif

INLINE void put_sum(const tile_out *out, int r, int p, int g, const int G, vec sum)
{
    const float *base = out->base[r] + p * out->step + g * VL;
    if (G == 3 && g == 2 && out->separate_candidate_bias) base = out->separate_candidate_bias + p * VL;
    v_store(out->sums[r] + (p * G + g) * VL, out->base[r] ? v_add(v_load(base), sum) : sum);
}
