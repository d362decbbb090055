#define ISA avx2
#define PRECISION fp16
#include "vec_avx2.h"
#include "half_avx2.h"

#include "half_body.h"
