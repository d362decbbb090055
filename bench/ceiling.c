/* What one core can do at most: arithmetic peaks and read bandwidth. Built and called by ceiling.py.
 *
 * Every loop is inline assembly over enough independent registers to cover the latency of the instruction,
 * so that neither the compiler nor its version decides the result. Each function returns the operations (or
 * bytes) it did; the caller divides by the time. A peak the CPU lacks has no business being called: the
 * `has_*` answers come from the CPU itself. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define REPEAT4(code) code code code code
#define REPEAT16(code) REPEAT4(code) REPEAT4(code) REPEAT4(code) REPEAT4(code)

double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* A chain of dependent one-cycle additions: operations per second is the clock in Hz. */
double clock_chain(int64_t rounds) {
    uint64_t a = 1;
    for (int64_t i = 0; i < rounds; i++) {
#if defined(__x86_64__)
        __asm__ volatile(REPEAT16(REPEAT4("add $1, %0\n\t")) : "+r"(a) : : "cc");
#elif defined(__aarch64__)
        __asm__ volatile(REPEAT16(REPEAT4("add %0, %0, #1\n\t")) : "+r"(a));
#endif
    }
    return 64.0 * (double)rounds;
}

/* Memory for the bandwidth loops: 2 MiB aligned, huge pages asked for, written once. */
float *make_buffer(int64_t bytes) {
    void *p = NULL;
    if (posix_memalign(&p, 2 << 20, (size_t)bytes)) return NULL;
#ifdef MADV_HUGEPAGE
    madvise(p, (size_t)bytes, MADV_HUGEPAGE);
#endif
    memset(p, 0, (size_t)bytes);
    return p;
}

void free_buffer(float *p) { free(p); }

#if defined(__x86_64__)

int has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
int has_avx512(void) { return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl"); }
int has_vnni(void) { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }
int has_bf16(void) { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }

/* One instruction for each of the registers named by their numbers: destination and accumulator. */
#define FMA512(n) "vfmadd231ps %%zmm30, %%zmm31, %%zmm" #n "\n\t"
#define FMA256(n) "vfmadd231ps %%ymm14, %%ymm15, %%ymm" #n "\n\t"
#define DOT512(n) "vpdpbusd %%zmm30, %%zmm31, %%zmm" #n "\n\t"
#define BF512(n) "vdpbf16ps %%zmm30, %%zmm31, %%zmm" #n "\n\t"
#define EACH24(op)                                                                                          \
    op(0) op(1) op(2) op(3) op(4) op(5) op(6) op(7) op(8) op(9) op(10) op(11) op(12) op(13) op(14) op(15)   \
        op(16) op(17) op(18) op(19) op(20) op(21) op(22) op(23)
#define EACH12(op) op(0) op(1) op(2) op(3) op(4) op(5) op(6) op(7) op(8) op(9) op(10) op(11)
#define LOW16                                                                                               \
    "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",       \
        "xmm12", "xmm13", "xmm14", "xmm15"
#define HIGH16                                                                                              \
    "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25", "xmm26",      \
        "xmm27", "xmm28", "xmm29", "xmm30", "xmm31"
#define ZERO512(n) "vpxord %%zmm" #n ", %%zmm" #n ", %%zmm" #n "\n\t"
#define ZERO256(n) "vxorps %%ymm" #n ", %%ymm" #n ", %%ymm" #n "\n\t"

#define PEAK512(name, op, per_instruction)                                                                  \
    __attribute__((target("avx512f,avx512vl"))) double name(int64_t rounds) {                               \
        __asm__ volatile(EACH24(ZERO512) ZERO512(30) ZERO512(31) : : : LOW16, HIGH16);                      \
        for (int64_t i = 0; i < rounds; i++) __asm__ volatile(EACH24(op) EACH24(op) : : : LOW16, HIGH16);   \
        __asm__ volatile("vzeroupper");                                                                     \
        return 48.0 * (per_instruction) * (double)rounds;                                                   \
    }
PEAK512(fma_avx512, FMA512, 32)
PEAK512(int8_vnni512, DOT512, 128)
PEAK512(bf16_avx512, BF512, 64)

__attribute__((target("avx2,fma"))) double fma_avx2(int64_t rounds) {
    __asm__ volatile(EACH12(ZERO256) ZERO256(14) ZERO256(15) : : : LOW16);
    for (int64_t i = 0; i < rounds; i++)
        __asm__ volatile(EACH12(FMA256) EACH12(FMA256) EACH12(FMA256) EACH12(FMA256) : : : LOW16);
    __asm__ volatile("vzeroupper");
    return 48.0 * 16 * (double)rounds;
}

/* int8 without VNNI: vpmaddubsw, vpmaddwd, vpaddd make 32 multiply-adds of one 256-bit register. */
#define MADD(t, n)                                                                                          \
    "vpmaddubsw %%ymm14, %%ymm15, %%ymm" #t "\n\tvpmaddwd %%ymm13, %%ymm" #t ", %%ymm" #t                   \
    "\n\tvpaddd %%ymm" #t ", %%ymm" #n ", %%ymm" #n "\n\t"
__attribute__((target("avx2"))) double int8_avx2(int64_t rounds) {
    __asm__ volatile(EACH12(ZERO256) ZERO256(13) ZERO256(14) ZERO256(15) : : : LOW16);
    for (int64_t i = 0; i < rounds; i++)
        __asm__ volatile(REPEAT4(MADD(6, 0) MADD(7, 1) MADD(8, 2) MADD(9, 3) MADD(10, 4) MADD(11, 5)) : : : LOW16);
    __asm__ volatile("vzeroupper");
    return 24.0 * 64 * (double)rounds;
}

/* The baseline of x86-64: no FMA, so a multiply and an addition, four floats each. */
#define ZERO128(n) "xorps %%xmm" #n ", %%xmm" #n "\n\t"
#define MULADD128(m, a) "mulps %%xmm14, %%xmm" #m "\n\taddps %%xmm15, %%xmm" #a "\n\t"
double muladd_sse2(int64_t rounds) {
    __asm__ volatile(EACH12(ZERO128) ZERO128(14) ZERO128(15) : : : LOW16);
    for (int64_t i = 0; i < rounds; i++)
        __asm__ volatile(REPEAT4(MULADD128(0, 6) MULADD128(1, 7) MULADD128(2, 8) MULADD128(3, 9) MULADD128(4, 10)
                                     MULADD128(5, 11)) : : : LOW16);
    return 24.0 * 8 * (double)rounds;
}

/* Read `bytes` (a multiple of 1024) `rounds` times; `ahead` > 0 prefetches that many bytes before use. */
#define LOAD512(offset, n) "vmovaps " #offset "(%0), %%zmm" #n "\n\t"
#define LOAD256(offset, n) "vmovaps " #offset "(%0), %%ymm" #n "\n\t"
__attribute__((target("avx512f,avx512vl"))) double read_avx512(const char *p, int64_t bytes, int64_t ahead,
                                                               int64_t rounds) {
    for (int64_t i = 0; i < rounds; i++)
        for (const char *q = p; q < p + bytes; q += 512) {
            if (ahead)
                for (int line = 0; line < 512; line += 64) __builtin_prefetch(q + ahead + line);
            __asm__ volatile(LOAD512(0, 16) LOAD512(64, 17) LOAD512(128, 18) LOAD512(192, 19) LOAD512(256, 20)
                                 LOAD512(320, 21) LOAD512(384, 22) LOAD512(448, 23)
                             : : "r"(q) : HIGH16, "memory");
        }
    __asm__ volatile("vzeroupper");
    return (double)bytes * (double)rounds;
}
__attribute__((target("avx2"))) double read_avx2(const char *p, int64_t bytes, int64_t ahead, int64_t rounds) {
    for (int64_t i = 0; i < rounds; i++)
        for (const char *q = p; q < p + bytes; q += 256) {
            if (ahead)
                for (int line = 0; line < 256; line += 64) __builtin_prefetch(q + ahead + line);
            __asm__ volatile(LOAD256(0, 0) LOAD256(32, 1) LOAD256(64, 2) LOAD256(96, 3) LOAD256(128, 4)
                                 LOAD256(160, 5) LOAD256(192, 6) LOAD256(224, 7)
                             : : "r"(q) : LOW16, "memory");
        }
    __asm__ volatile("vzeroupper");
    return (double)bytes * (double)rounds;
}

#elif defined(__aarch64__)

#include <sys/auxv.h>
#ifndef HWCAP_ASIMDDP
#define HWCAP_ASIMDDP (1 << 20)
#endif

int has_neon(void) { return 1; }
int has_dotprod(void) { return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0; }

#define FMLA(n) "fmla v" #n ".4s, v30.4s, v31.4s\n\t"
#define SDOT(n) "sdot v" #n ".4s, v30.16b, v31.16b\n\t"
#define EACH24(op)                                                                                          \
    op(0) op(1) op(2) op(3) op(4) op(5) op(6) op(7) op(8) op(9) op(10) op(11) op(12) op(13) op(14) op(15)   \
        op(16) op(17) op(18) op(19) op(20) op(21) op(22) op(23)
#define ALL                                                                                                 \
    "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13", "v14", "v15",   \
        "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v30", "v31"
#define ZERO(n) "movi v" #n ".4s, #0\n\t"

double fma_neon(int64_t rounds) {
    __asm__ volatile(EACH24(ZERO) ZERO(30) ZERO(31) : : : ALL);
    for (int64_t i = 0; i < rounds; i++) __asm__ volatile(EACH24(FMLA) EACH24(FMLA) : : : ALL);
    return 48.0 * 8 * (double)rounds;
}

#if defined(__clang__)
__attribute__((target("dotprod")))
#else
__attribute__((target("+dotprod")))
#endif
double int8_dotprod(int64_t rounds) {
    __asm__ volatile(EACH24(ZERO) ZERO(30) ZERO(31) : : : ALL);
    for (int64_t i = 0; i < rounds; i++) __asm__ volatile(EACH24(SDOT) EACH24(SDOT) : : : ALL);
    return 48.0 * 32 * (double)rounds;
}

double read_neon(const char *p, int64_t bytes, int64_t ahead, int64_t rounds) {
    for (int64_t i = 0; i < rounds; i++)
        for (const char *q = p; q < p + bytes; q += 256) {
            if (ahead)
                for (int line = 0; line < 256; line += 64) __builtin_prefetch(q + ahead + line);
            __asm__ volatile("ldp q0, q1, [%0]\n\tldp q2, q3, [%0, #32]\n\tldp q4, q5, [%0, #64]\n\t"
                             "ldp q6, q7, [%0, #96]\n\tldp q8, q9, [%0, #128]\n\tldp q10, q11, [%0, #160]\n\t"
                             "ldp q12, q13, [%0, #192]\n\tldp q14, q15, [%0, #224]\n\t"
                             : : "r"(q) : ALL, "memory");
        }
    return (double)bytes * (double)rounds;
}

#endif
