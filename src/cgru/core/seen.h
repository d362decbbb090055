/* Masked loads and stores of vectors are instructions that gcc's sanitizers do not see: in their builds each number is
 * touched before, by itself. Nothing is done in any other. */
#ifndef CGRU_SEEN_H
#define CGRU_SEEN_H

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
static inline void seen_load(const float *p, int n)
{
    for (int i = 0; i < n; i++) (void)*(const volatile float *)(p + i);
}
static inline void seen_store(float *p, int n)
{
    for (int i = 0; i < n; i++) *(volatile float *)(p + i) = 0.0f;
}
#else
#define seen_load(p, n) ((void)0)
#define seen_store(p, n) ((void)0)
#endif

#endif
