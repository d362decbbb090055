#define ISA avx512bf16
#include "vec_avx512.h"
#include "dot_bf16_avx512.h"

#include "bf16_dot_body.h"
