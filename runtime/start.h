// Where the time between a program's first instruction and its first token goes. By one thread.
#pragma once

// From here on it counts.
void start_begin(void);
// What has passed since the last call went to this part; parts of one name add up.
void start_part(const char *name);
// Prints {"program": seconds, ..., "total": seconds}; the last part, "first_token", ends at `first`
// of the monotonic clock, 0: there is none.
void start_print(double first);
