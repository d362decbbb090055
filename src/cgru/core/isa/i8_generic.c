#define ISA generic
#include "vec_generic.h"
#include "dot_generic.h"

#include "i8_body.h"
