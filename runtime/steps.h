// The steps of a pass, each alone, as bench prints them.
#pragma once
#include "device.h"

// Bytes of the cache and of states that a row at the end of `context` tokens reads and writes.
uint64_t cache_bytes(const DeviceOptions *o, int context);
// Those of the last pass, over sequences of `context` tokens: lines of a table, or with `json` a
// list. `rate` is the memory's, or 0.
void print_steps(Device *d, const DeviceOptions *o, int context, double rate, int json);
