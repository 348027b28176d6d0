// A small HTTP client and the server under test, for tests/server.
#pragma once
#pragma GCC diagnostic ignored "-Wunused-function" // each test uses some of it
#include <arpa/inet.h>
#include <jansson.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct {
    pid_t pid;
    int port, log;
} Server;

// Where programs run: DEVICE, or the processor.
static const char *device_name(void)
{
    return getenv("DEVICE") ? getenv("DEVICE") : "cpu";
}

// Starts `program serve --port 0 ...` (NULL-terminated) and waits until it listens.
static Server start_server(const char *program, const char *const *more)
{
    Server s = {0};
    const char *argv[32] = {program, "serve", "--port", "0", "--device", device_name()};
    int n = 6, pipes[2];
    while (*more) argv[n++] = *more++;
    if (pipe(pipes) != 0) exit(1);
    s.pid = fork();
    if (s.pid == 0) {
        dup2(pipes[1], 2);
        close(pipes[0]);
        execv(program, (char *const *)argv);
        _exit(127);
    }
    close(pipes[1]);
    s.log = pipes[0];
    char text[4096];
    size_t bytes = 0;
    for (ssize_t got; bytes < sizeof text - 1; bytes += (size_t)got) {
        if ((got = read(s.log, text + bytes, sizeof text - 1 - bytes)) <= 0) break;
        text[bytes + (size_t)got] = 0;
        const char *at = strstr(text, "http://127.0.0.1:");
        if (at && strchr(at, '\n')) {
            s.port = atoi(at + 17);
            return s;
        }
    }
    fprintf(stderr, "the server did not start: %s\n", text);
    exit(1);
}

// Its exit status after a signal, or -1 when it did not exit by itself.
static int stop_server(Server *s, int signal)
{
    int status;
    kill(s->pid, signal);
    waitpid(s->pid, &status, 0);
    close(s->log);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int connect_to(int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct timeval limit = {30, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static int send_all(int fd, const char *data, size_t bytes)
{
    while (bytes) {
        ssize_t n = send(fd, data, bytes, MSG_NOSIGNAL);
        if (n <= 0) return -1;
        data += n, bytes -= (size_t)n;
    }
    return 0;
}

// Sends a request; `headers` end in CRLF each. Returns the socket.
static int send_request(int port, const char *method, const char *path, const char *headers,
                        const char *body)
{
    char head[1024];
    int fd = connect_to(port);
    int n =
        snprintf(head, sizeof head,
                 "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%sContent-Length: %zu\r\n\r\n",
                 method, path, headers, strlen(body));
    if (fd >= 0 && send_all(fd, head, (size_t)n) == 0) send_all(fd, body, strlen(body));
    return fd;
}

// Reads until the other side closes; the caller frees.
static char *read_all(int fd)
{
    size_t room = 1 << 16, bytes = 0;
    char *text = malloc(room);
    for (ssize_t n; fd >= 0; bytes += (size_t)n) {
        if (bytes + 1 >= room) text = realloc(text, room *= 2);
        n = recv(fd, text + bytes, room - bytes - 1, 0);
        if (n <= 0) break;
    }
    text[bytes] = 0;
    if (fd >= 0) close(fd);
    return text;
}

// Undoes chunked encoding in place.
static void join_chunks(char *body)
{
    char *out = body, *in = body;
    for (;;) {
        char *end;
        size_t n = strtoul(in, &end, 16);
        if (!n || strncmp(end, "\r\n", 2) != 0 || strlen(end + 2) < n) break;
        memmove(out, end + 2, n);
        out += n;
        in = end + 2 + n + 2;
    }
    *out = 0;
}

// The answer's body; its status in *status. The caller frees.
static char *request(int port, const char *method, const char *path, const char *headers,
                     const char *body, int *status)
{
    char *all = read_all(send_request(port, method, path, headers, body));
    char *at = strstr(all, "\r\n\r\n");
    *status = strncmp(all, "HTTP/1.1 ", 9) == 0 ? atoi(all + 9) : 0;
    int chunked = at && memmem(all, (size_t)(at - all), "chunked", 7);
    char *text = strdup(at ? at + 4 : "");
    free(all);
    if (chunked) join_chunks(text);
    return text;
}

static char *format(const char *fmt, ...)
{
    char *text;
    va_list args;
    va_start(args, fmt);
    if (vasprintf(&text, fmt, args) < 0) exit(1);
    va_end(args);
    return text;
}

// Posts a completion; returns the answer as JSON (null when it is none) and its status.
static json_t *complete(int port, const char *body, int *status)
{
    char *text = request(port, "POST", "/v1/completions", "", body, status);
    json_t *answer = json_loads(text, 0, NULL);
    free(text);
    return answer ? answer : json_null();
}

static const json_t *choice(const json_t *answer, size_t i)
{
    return json_array_get(json_object_get(answer, "choices"), i);
}

static const char *text_of(const json_t *answer)
{
    const char *text = json_string_value(json_object_get(choice(answer, 0), "text"));
    return text ? text : "(no text)";
}

static const char *reason_of(const json_t *answer)
{
    const char *text = json_string_value(json_object_get(choice(answer, 0), "finish_reason"));
    return text ? text : "(none)";
}

static int usage_of(const json_t *answer, const char *name)
{
    return (int)json_integer_value(json_object_get(json_object_get(answer, "usage"), name));
}

static int cached_of(const json_t *answer)
{
    const json_t *details =
        json_object_get(json_object_get(answer, "usage"), "prompt_tokens_details");
    return (int)json_integer_value(json_object_get(details, "cached_tokens"));
}
