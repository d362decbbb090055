/* The floating-point mode of a call: subnormals are flushed, since a state decaying on silence would otherwise run
 * ten times slower. Every thread sets it on the way in and puts back what it found on the way out. */
#ifndef CGRU_FPMODE_H
#define CGRU_FPMODE_H

#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
typedef unsigned cgru_fpmode;
static inline cgru_fpmode cgru_flush_subnormals(void)
{
    unsigned found = _mm_getcsr();
    _mm_setcsr(found | 0x8040u); /* flush to zero, denormals are zero */
    return found;
}
static inline void cgru_restore_fpmode(cgru_fpmode found)
{
    _mm_setcsr(found);
}
#elif defined(__aarch64__)
#include <stdint.h>
typedef uint64_t cgru_fpmode;
static inline cgru_fpmode cgru_flush_subnormals(void)
{
    uint64_t found;
    __asm__ volatile("mrs %0, fpcr" : "=r"(found));
    __asm__ volatile("msr fpcr, %0" ::"r"(found | (UINT64_C(1) << 24)));
    return found;
}
static inline void cgru_restore_fpmode(cgru_fpmode found)
{
    __asm__ volatile("msr fpcr, %0" ::"r"(found));
}
#else
typedef int cgru_fpmode;
static inline cgru_fpmode cgru_flush_subnormals(void)
{
    return 0;
}
static inline void cgru_restore_fpmode(cgru_fpmode found)
{
    (void)found;
}
#endif

#endif
