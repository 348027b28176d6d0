// Two lists of keys.
#include "keys.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct Key {
    Key *next;
    int admin;
    char text[];
};

static int add_key(Key **list, int admin, const char *text, size_t bytes)
{
    Key *key = malloc(sizeof *key + bytes + 1);
    if (!key) return -1;
    *key = (Key){*list, admin};
    memcpy(key->text, text, bytes);
    key->text[bytes] = 0;
    *list = key;
    return 0;
}

static void drop_keys(Key **list)
{
    for (Key *key = *list, *next; key; key = next) {
        next = key->next;
        free(key);
    }
    *list = NULL;
}

// --- the file ------------------------------------------------------------------------------------

// A line's key into the list; *kind is what a "- KEY" would be: 0 api, 1 admin, -1 nothing.
static int read_line(Key **list, char *line, int *kind)
{
    line += strspn(line, " \t");
    size_t bytes = strcspn(line, "\r\n");
    while (bytes && strchr(" \t", line[bytes - 1])) bytes--;
    line[bytes] = 0;
    if (!bytes || *line == '#' || strcmp(line, "---") == 0) return 0;
    char *value = line + 1;
    if (*line != '-') {
        size_t n = strcspn(line, " \t:=");
        *kind = n == 7 && !strncmp(line, "api", 3) && !strncmp(line + 4, "key", 3)     ? 0
                : n == 9 && !strncmp(line, "admin", 5) && !strncmp(line + 6, "key", 3) ? 1
                                                                                       : -1;
        value = line + n + strspn(line + n, " \t");
        if (*kind < 0 || (*value != ':' && *value != '=')) return -1;
        value++;
    }
    value += strspn(value, " \t");
    size_t n = strlen(value);
    if (!n) return *kind < 0 || *line == '-' ? -1 : 0; // the keys follow
    if (n > 1 && strchr("\"'", *value) && value[n - 1] == *value) value++, n -= 2;
    return !n || *kind < 0 || *value == '[' ? -1 : add_key(list, *kind, value, n);
}

static int read_file(const char *path, Key **out, Error *err)
{
    Key *list = NULL;
    char *line = NULL;
    size_t room = 0;
    ssize_t bytes;
    int kind = -1, bad = 0;
    FILE *f = fopen(path, "r");
    if (!f) return error_set(err, "%s: %s", path, strerror(errno));
    for (int number = 1; !bad && (bytes = getline(&line, &room, f)) >= 0; number++)
        if (strlen(line) != (size_t)bytes || read_line(&list, line, &kind) != 0)
            bad = error_set(err, "%s:%d: expected 'api-key = KEY' or 'admin-key = KEY'", path,
                            number);
    if (!bad && ferror(f)) bad = error_set(err, "%s: %s", path, strerror(errno));
    if (!bad && !list) bad = error_set(err, "%s: there is no key in it", path);
    free(line);
    fclose(f);
    if (bad) {
        drop_keys(&list);
        return -1;
    }
    drop_keys(out);
    *out = list;
    return 0;
}

// --- keys ----------------------------------------------------------------------------------------

int keys_open(Keys *k, const char *api_key, const char *admin_key, const char *path, Error *err)
{
    *k = (Keys){.path = path};
    if ((api_key && add_key(&k->given, 0, api_key, strlen(api_key)) != 0) ||
        (admin_key && add_key(&k->given, 1, admin_key, strlen(admin_key)) != 0))
        return error_set(err, "out of memory");
    return path && keys_refresh(k, err) < 0 ? -1 : 0;
}

void keys_close(Keys *k)
{
    drop_keys(&k->given);
    drop_keys(&k->filed);
}

int keys_refresh(Keys *k, Error *err)
{
    struct stat file;
    struct timespec changed = {0};
    if (!k->path) return 0;
    // A file may come with an older one's time of writing, or become readable without a new one.
    if (stat(k->path, &file) == 0) changed = file.st_ctim;
    if (k->filed && changed.tv_sec == k->changed.tv_sec && changed.tv_nsec == k->changed.tv_nsec)
        return 0;
    k->changed = changed;
    return read_file(k->path, &k->filed, err) == 0 ? 1 : -1;
}

// In a time that does not tell where they differ.
static int same(const char *given, const char *key)
{
    size_t n = strlen(key), difference = strlen(given) ^ n;
    for (size_t i = 0; i < n && given[i]; i++) difference |= (size_t)(given[i] ^ key[i]);
    return difference == 0;
}

int keys_permission(const Keys *k, const char *key)
{
    int kinds[2] = {0}, granted = 0;
    for (int list = 0; list < 2; list++)
        for (const Key *one = list ? k->filed : k->given; one; one = one->next) {
            kinds[one->admin] = 1;
            if (key && same(key, one->text)) granted |= 1 << one->admin;
        }
    if (granted & 2) return 2;
    // Where nobody has an admin key, whoever may use the model may look behind it.
    if (granted || !kinds[0]) return kinds[1] ? 1 : 2;
    return 0;
}
