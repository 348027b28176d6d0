// Fuzzes the server as a client that sends any bytes: HTTP, routes, bodies, streams, leaving. One
// connection an input; loop and generator run here, in turns.
#include "model.h"
#include "../../runtime/server.h"
#include <arpa/inet.h>
#include <event2/event.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

void fail(const char *fmt, ...)
{
    (void)fmt;
    abort();
}

static Server *start(Api *api)
{
    static const Options options = {.host = "127.0.0.1",
                                    .cors = "*",
                                    .admin_key = "admin",
                                    .max_body = 16384,
                                    .max_queue = 8,
                                    .drain = 5};
    Server *server;
    Error err;
    signal(SIGPIPE, SIG_IGN);
    if (server_open(&server, &options, api, &err) != 0) abort();
    return server;
}

static int connect_to(int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    // Another address every now and then, and nothing lingers: or the system runs out of ports.
    static uint32_t connections, failures;
    struct sockaddr_in own = {.sin_family = AF_INET,
                              .sin_addr.s_addr = htonl(0x7f000002 + connections++ / 5000 % 1000)};
    const struct linger at_once = {1, 0};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    if (bind(fd, (struct sockaddr *)&own, sizeof own) != 0 ||
        connect(fd, (struct sockaddr *)&a, sizeof a) != 0) {
        if (++failures == 100) abort();
        perror("connect");
        close(fd);
        return -1;
    }
    failures = 0;
    return fd;
}

// Lets everybody work until nothing happens, or for some rounds; what is answered must be HTTP.
static void settle(Api *api, Server *server, int fd, int rounds, size_t *received)
{
    char answer[65536];
    for (int idle = 0; idle < 3 && rounds-- > 0; idle++) {
        event_base_loop(server_base(server), EVLOOP_NONBLOCK);
        if (generator_step(api->generator)) idle = 0;
        ssize_t n = fd < 0 ? 0 : recv(fd, answer, sizeof answer, MSG_DONTWAIT);
        if (n <= 0) continue;
        if (!*received && (n < 5 || memcmp(answer, "HTTP/", 5) != 0)) abort();
        *received += (size_t)n;
        idle = 0;
    }
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t bytes)
{
    static Api *api;
    static Server *server;
    size_t received = 0;
    if (!api) server = start(api = open_api());
    int fd = connect_to(server_port(server));
    if (fd < 0) return 0;
    if (bytes && send(fd, data, bytes, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) abort();
    // By the last byte, the client leaves in the middle.
    int patient = !bytes || data[bytes - 1] % 4 != 1;
    settle(api, server, fd, patient ? 1 << 20 : data[bytes - 1] / 4, &received);
    if (patient) {
        shutdown(fd, SHUT_WR);
        settle(api, server, fd, 1 << 20, &received);
    }
    close(fd);
    settle(api, server, -1, 1 << 20, &received);
    const GeneratorStats *s = &api->generator->stats;
    if (s->running || s->queued || s->pages_used) abort(); // nobody is there to answer
    return 0;
}
