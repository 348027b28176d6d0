// The steps of a forward pass on the CPU, called in turn by every worker (templates/cpu.c). Needs
// the constants of the model. Each divides its work by (index, count) of the worker and leaves its
// results visible to all; what a row comes out as depends neither on the division nor, up to
// FEW_ROWS rows, on the other rows.
#pragma once
#include "memory.h"
#include "embed.h"
#include "qkv.h"
#include "attend.h"
#include "out.h"
#include "gated.h"
#include "delta.h"
#include "latent.h"
#include "up.h"
#include "moe.h"
#include "head.h"
