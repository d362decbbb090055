/* 16-bit weights widened in plain C. */
static inline ivec words(const uint16_t *p)
{
    ivec out;
    memcpy(&out, p, sizeof out);
    return out;
}
static inline vec v_lower(const uint16_t *p) { return (vec)(words(p) << 16); }
static inline vec v_upper(const uint16_t *p) { return (vec)(words(p) & ~0xffff); }
/* Finite halves alone. Below 2^-14 they have no exponent: a whole number of 2^-24. */
static inline vec v_half(const uint16_t *p)
{
    ivec bits = {p[0], p[1], p[2], p[3]}, magnitude = bits & 0x7fff, sign = (bits & 0x8000) << 16;
    ivec normal = (magnitude << 13) + (112 << 23), small = (ivec)(__builtin_convertvector(magnitude, vec) * v_set(0x1p-24f));
    ivec tiny = magnitude < 0x400;
    return (vec)(((tiny & small) | (~tiny & normal)) | sign);
}
