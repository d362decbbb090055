/* Random numbers that are the same on every machine: arithmetic and square roots alone, each rounded as it stands. */
#ifndef CGRU_VARIATES_H
#define CGRU_VARIATES_H

#include <stdint.h>

/* Four numbers of 32 bits that depend on key and counter alone: Philox 4×32, 10 rounds (Salmon et al. 2011). */
void cgru_philox(const uint32_t key[2], uint32_t counter[4]);
/* In [0, 1), of 53 bits: number `index` of stream `stream` under a seed. */
double cgru_uniform(uint64_t seed, uint64_t stream, uint64_t index);

/* The standard normal variate at u in [0, 1): the inverse of its distribution function (Wichura 1988, AS 241). */
double cgru_normal(double u);
void cgru_normal_eight(double *z, const double *u); /* the same bits of eight */
/* Student's t with so many degrees of freedom of two uniform variates (Bailey 1994). */
double cgru_student(double u, double v, double freedom);

double cgru_log(double x); /* x > 0 */
double cgru_exp(double x); /* of what lies within ±700, as beyond */
void cgru_exp_eight(double *x); /* the same bits of eight, where they stand */
double cgru_softplus(double x);

#endif
