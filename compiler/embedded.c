// The files that exlc carries; compiler/embed.sh makes the table.
#include "exlc.h"
#include <string.h>

typedef struct {
    const char *name, *start, *end;
} Embedded;

extern const Embedded embedded_table[];

const char *embedded_text(const char *name, size_t *bytes)
{
    for (const Embedded *e = embedded_table; e->name; e++) {
        if (strcmp(e->name, name) != 0) continue;
        *bytes = (size_t)(e->end - e->start);
        return e->start;
    }
    return NULL;
}

const char *const *embedded_names(void)
{
    static const char **names;
    if (names) return names;
    size_t count = 0;
    while (embedded_table[count].name) count++;
    names = arena_alloc((count + 1) * sizeof *names);
    for (size_t i = 0; i < count; i++) names[i] = embedded_table[i].name;
    return names;
}
