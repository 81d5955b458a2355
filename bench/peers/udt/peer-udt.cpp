// `peer-udt receive ADDRESS PORT SECONDS MTU` takes one connection, counts its bytes, for so many seconds at most, and prints `BYTES SECONDS`, from the first
// byte to the last; `peer-udt send ADDRESS PORT FILE MTU` sends a file and waits until it is acknowledged.
//
// UDT 4 as Debian has it (libudt), one stream with the congestion control that it comes with. Windows and buffers are wide, so that they limit little.

#include <arpa/inet.h>
#include <netinet/in.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <udt/udt.h>

namespace {

using Clock = std::chrono::steady_clock;

constexpr int WINDOW_PACKETS = 64000;
constexpr int BUFFER_BYTES = 64 << 20;
constexpr int SOCKET_BUFFER_BYTES = 4 << 20;
constexpr int CHUNK_BYTES = 1 << 20;

[[noreturn]] void fail(const char* what) {
    throw std::runtime_error(std::string(what) + ": " + UDT::getlasterror().getErrorMessage());
}

sockaddr_in address(const char* host, const char* port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(std::atoi(port)));
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1) throw std::runtime_error("not an IPv4 address");
    return address;
}

template <typename T>
void set(UDTSOCKET socket, UDT::SOCKOPT option, T value) {
    if (UDT::setsockopt(socket, 0, option, &value, sizeof value) == UDT::ERROR) fail("an option");
}

UDTSOCKET opened(const char* mtu) {
    const UDTSOCKET socket = UDT::socket(AF_INET, SOCK_STREAM, 0);
    if (socket == UDT::INVALID_SOCK) fail("socket");
    set(socket, UDT_MSS, std::atoi(mtu));
    // Buffers may not be larger than the window.
    set(socket, UDT_FC, WINDOW_PACKETS);
    set(socket, UDT_SNDBUF, BUFFER_BYTES);
    set(socket, UDT_RCVBUF, BUFFER_BYTES);
    set(socket, UDP_SNDBUF, SOCKET_BUFFER_BYTES);
    set(socket, UDP_RCVBUF, SOCKET_BUFFER_BYTES);
    return socket;
}

double seconds(Clock::duration time) { return std::chrono::duration<double>(time).count(); }

void receive(const char* host, const char* port, double longest, const char* mtu) {
    const UDTSOCKET listening = opened(mtu);
    const sockaddr_in at = address(host, port);
    if (UDT::bind(listening, reinterpret_cast<const sockaddr*>(&at), sizeof at) == UDT::ERROR) fail("bind");
    if (UDT::listen(listening, 1) == UDT::ERROR) fail("listen");
    std::puts("ready");
    std::fflush(stdout);
    sockaddr_in peer{};
    int peer_bytes = sizeof peer;
    const UDTSOCKET connection = UDT::accept(listening, reinterpret_cast<sockaddr*>(&peer), &peer_bytes);
    if (connection == UDT::INVALID_SOCK) fail("accept");
    std::vector<char> chunk(CHUNK_BYTES);
    unsigned long long bytes = 0;
    Clock::time_point first, last;
    for (;;) {
        const double left = bytes == 0 ? longest : longest - seconds(Clock::now() - first);
        if (left <= 0) break;
        const int milliseconds = static_cast<int>(left * 1000) + 1;
        // Refused where the sender is gone already; what it has sent can be received all the same.
        UDT::setsockopt(connection, 0, UDT_RCVTIMEO, &milliseconds, sizeof milliseconds);
        // Too late, broken, or the end: what has arrived counts.
        const int got = UDT::recv(connection, chunk.data(), CHUNK_BYTES, 0);
        if (got == UDT::ERROR) break;
        last = Clock::now();
        if (got > 0 && bytes == 0) first = last;
        bytes += static_cast<unsigned long long>(got);
    }
    std::printf("%llu %.6f\n", bytes, seconds(last - first));
    std::fflush(stdout);
}

void send(const char* host, const char* port, const char* path, const char* mtu) {
    const UDTSOCKET socket = opened(mtu);
    const sockaddr_in to = address(host, port);
    if (UDT::connect(socket, reinterpret_cast<const sockaddr*>(&to), sizeof to) == UDT::ERROR) fail("connect");
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("cannot open the file");
    std::vector<char> chunk(CHUNK_BYTES);
    while (file.read(chunk.data(), CHUNK_BYTES), file.gcount() > 0) {
        for (int sent = 0; sent < file.gcount();) {
            const int taken = UDT::send(socket, chunk.data() + sent, static_cast<int>(file.gcount()) - sent, 0);
            if (taken == UDT::ERROR) fail("send");
            sent += taken;
        }
    }
    // Waits for what is not acknowledged, as long as UDT_LINGER says: 180 seconds.
    UDT::close(socket);
}

}  // namespace

int main(int count, char** words) {
    if (count != 6 || (std::strcmp(words[1], "receive") != 0 && std::strcmp(words[1], "send") != 0)) {
        std::fputs("peer-udt receive ADDRESS PORT SECONDS MTU, or\npeer-udt send ADDRESS PORT FILE MTU\n", stderr);
        return 2;
    }
    UDT::startup();
    try {
        if (std::strcmp(words[1], "receive") == 0) {
            receive(words[2], words[3], std::atof(words[4]), words[5]);
        } else {
            send(words[2], words[3], words[4], words[5]);
        }
    } catch (const std::exception& error) {
        std::fprintf(stderr, "peer-udt: %s\n", error.what());
        return 1;
    }
    // UDT::cleanup() waits for its threads; the process is done.
    std::_Exit(0);
}
