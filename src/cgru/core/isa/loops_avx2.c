#define ISA avx2
#include "vec_avx2.h"

#include "loops_body.h"
