// exlc: begin title
// exlc: end title
// The numbers of this model, each with its key in config.json. Included by host and device code.
#pragma once

// exlc: begin constants
// exlc: end constants
