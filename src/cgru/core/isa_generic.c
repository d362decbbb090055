#define ISA generic
#include "vec_generic.h"

#include "kernel_body.h"
