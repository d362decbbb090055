#define ISA neon
#include "vec_neon.h"

#include "kernel_body.h"
