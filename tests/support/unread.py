"""How many bytes lie unread on the other end of a loopback connection."""

import errno
import socket
import struct
from pathlib import Path

# linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h
NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, NLMSG_ERROR = 4, 20, 1, 2
ALL_STATES = 0xFFFFFFFF
NO_COOKIE = b"\xff" * 8
HEADER = struct.Struct("=IHHII")
RECEIVE_QUEUE_AT = HEADER.size + 56


def unread_by_peer(sock: socket.socket) -> int:
    """Count what the peer's process, on this host, has not taken off its socket; 0 when the connection is gone."""
    asked = _ask_kernel(sock.getpeername(), sock.getsockname())
    return _read_proc(sock.getpeername(), sock.getsockname()) if asked is None else asked


def _ask_kernel(local: tuple[str, int], remote: tuple[str, int]) -> int | None:
    """Ask for this one socket (sock_diag(7)): 20 microseconds however many there are; None where it is not offered."""
    socket_id = struct.pack("!HH", local[1], remote[1])
    socket_id += socket.inet_aton(local[0]).ljust(16, b"\0") + socket.inet_aton(remote[0]).ljust(16, b"\0")
    socket_id += struct.pack("=I", 0) + NO_COOKIE
    query = struct.pack("=BBBBI", socket.AF_INET, socket.IPPROTO_TCP, 0, 0, ALL_STATES) + socket_id
    header = HEADER.pack(HEADER.size + len(query), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, 0, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as netlink:
            netlink.settimeout(1)
            netlink.send(header + query)
            answer = netlink.recv(4096)
    except OSError:
        return None
    if HEADER.unpack_from(answer)[1] == NLMSG_ERROR:
        error = -struct.unpack_from("=i", answer, HEADER.size)[0]
        return 0 if error == errno.ENOENT else None
    return int(struct.unpack_from("=I", answer, RECEIVE_QUEUE_AT)[0])


def _read_proc(local: tuple[str, int], remote: tuple[str, int]) -> int:
    """Search the table of all sockets (proc(5)): milliseconds when there are thousands."""
    wanted = f"{_in_proc(local)} {_in_proc(remote)} "
    for row in Path("/proc/net/tcp").read_text().splitlines():
        if wanted in row:
            return int(row.split()[4].split(":")[1], 16)
    return 0


def _in_proc(address: tuple[str, int]) -> str:
    return f"{int.from_bytes(socket.inet_aton(address[0]), 'little'):08X}:{address[1]:04X}"
