// Standard input as a whole.
#include "input.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

char *read_input(size_t *bytes, Error *err)
{
    char *data = NULL;
    size_t room = 0;
    *bytes = 0;
    do {
        if (*bytes + 65537 > room) {
            room = room ? room * 2 : 1 << 17;
            char *larger = realloc(data, room);
            if (!larger) {
                free(data);
                error_set(err, "out of memory");
                return NULL;
            }
            data = larger;
        }
        *bytes += fread(data + *bytes, 1, 65536, stdin);
    } while (!feof(stdin) && !ferror(stdin));
    if (ferror(stdin)) {
        free(data);
        error_set(err, "standard input: %s", strerror(errno));
        return NULL;
    }
    data[*bytes] = 0;
    return data;
}
