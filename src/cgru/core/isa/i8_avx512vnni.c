#define ISA avx512vnni
#define VNNI
#include "vec_avx512.h"
#include "dot_avx512.h"

#include "i8_body.h"
