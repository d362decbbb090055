#define ISA avx2
#include "vec_avx2.h"
#include "dot_avx2.h"

#include "i8_body.h"
