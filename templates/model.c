// exlc: begin title
// exlc: end title
// What the runtime knows of this model: where its weights are, and its other parts.
#include "constants.h"
#include "runtime/program.h"

// exlc: begin model
// exlc: end model
