/* Receives connections from Vestibule (docs/handoff.md), one at a time:
 *   cc -O2 -o receiver receiver.c && ./receiver /run/vestibule/imap.sock */
#include <arpa/inet.h>
#include <endian.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static _Alignas(8) unsigned char record[1 << 17];

/* The next offer: its descriptor, or -1 when nothing more comes. */
static int offer(int link) {
    union { char room[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } control;
    struct iovec part = {record, sizeof record};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    int descriptor = -1;
    if (recvmsg(link, &message, MSG_CMSG_CLOEXEC) < 100 || memcmp(record, "VHOF\1", 5) != 0) return -1;
    if (CMSG_FIRSTHDR(&message)) memcpy(&descriptor, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof descriptor);
    return descriptor;
}

static int say(int link, const char *word, uint64_t id) {
    char line[40];
    return send(link, line, snprintf(line, sizeof line, "%s %llu", word, (unsigned long long)id), MSG_NOSIGNAL);
}

/* The connection is ours: greets with the client's address (IPv4 as ::ffff:a.b.c.d), sends the residual back, leaves. */
static void serve(int connection) {
    char client[INET6_ADDRSTRLEN], rest[4096], greeting[128];
    uint16_t fixed = record[6] << 8 | record[7];
    uint32_t header, residual;
    memcpy(&header, record + 88, 4), memcpy(&residual, record + 92, 4);
    inet_ntop(AF_INET6, record + 16, client, sizeof client);
    int length = snprintf(greeting, sizeof greeting, "* OK hello %s from %d\r\n", client, (int)getpid());
    send(connection, greeting, length, MSG_NOSIGNAL);
    send(connection, record + fixed + record[96] + record[97] + ntohl(header), ntohl(residual), MSG_NOSIGNAL);
    shutdown(connection, SHUT_WR);
    while (read(connection, rest, sizeof rest) > 0) {}
}

int main(int count, char **words) {
    struct sockaddr_un place = {.sun_family = AF_UNIX};
    if (count != 2) return fprintf(stderr, "usage: %s SOCKET\n", words[0]), 2;
    strncpy(place.sun_path, words[1], sizeof place.sun_path - 1);
    for (;; usleep(50000)) {
        int connection, link = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        if (connect(link, (struct sockaddr *)&place, sizeof place) == 0 && send(link, "hello 1 1", 9, MSG_NOSIGNAL) > 0)
            while ((connection = offer(link)) >= 0) {
                uint64_t id = be64toh(*(uint64_t *)(record + 8));
                int ours = say(link, "taken", id) > 0; /* before anything is read or written */
                if (ours) serve(connection);
                close(connection);
                if (ours) say(link, "done", id);
            }
        close(link);
    }
}
