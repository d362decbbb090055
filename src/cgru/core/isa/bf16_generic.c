#define ISA generic
#define PRECISION bf16
#define WEIGHTS_BF16
#include "vec_generic.h"
#include "half_generic.h"

#include "half_body.h"
