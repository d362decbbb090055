#define ISA avx512
#include "vec_avx512.h"

#include "loops_body.h"
