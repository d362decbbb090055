#define ISA neondot
#define DOTPROD
#include "vec_neon.h"
#include "dot_neon.h"

#include "i8_body.h"
