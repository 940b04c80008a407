"""Take from this process what a decoder of strangers' files does not need: network, files, programs, memory.

Three walls, each where the system allows it: a namespace without network, a filter of system calls (seccomp),
and limits of memory, seconds and files. None can be taken down again by the process itself.
"""

import ctypes
import errno
import os
import platform
import struct
import sys

__all__ = ["fence_network", "filter_calls", "limit"]

_NEWUSER, _NEWNET, _NEWIPC = 0x10000000, 0x40000000, 0x08000000
_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER = 38, 22, 2
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _EQUAL, _ANY_BIT, _AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_THREAD = 0x10000  # CLONE_THREAD: threads may be made, processes may not

# System calls that are refused, by their numbers on each processor: new connections, opening and changing
# files by name, new programs, looking into other processes, and doors into the kernel that no decoder uses.
_REFUSED = {
    "x86_64": (
        2, 41, 42, 43, 44, 49, 50, 53, 57, 58, 59, 62, 76, 82, 83, 84, 85, 86, 87, 88, 90, 92, 94, 101,
        132, 133, 155, 161, 165, 166, 188, 200, 234, 235, 248, 249, 250, 257, 258, 259, 260, 261, 263, 264,
        265, 266, 268, 272, 280, 288, 298, 304, 308, 310, 311, 316, 321, 322, 323, 424, 425, 434, 437,
        438, 452,
    ),
    "aarch64": (
        5, 33, 34, 35, 36, 37, 38, 39, 40, 41, 45, 51, 53, 54, 56, 88, 97, 117, 129, 130, 131, 198, 199, 200,
        201, 202, 203, 206, 217, 218, 219, 221, 241, 242, 265, 268, 270, 271, 276, 280, 281, 282, 424, 425,
        434, 437, 438, 452,
    ),
}  # fmt: skip
_MACHINES = {"x86_64": (0xC000003E, 56), "aarch64": (0xC00000B7, 220)}  # audit number, clone
_CLONE3 = 435


def fence_network() -> bool:
    """Leave for a namespace without network, if the system lets anyone do so; before any thread is made."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.unshare(_NEWUSER | _NEWNET | _NEWIPC) == 0)


def filter_calls() -> bool:
    """Have the kernel refuse system calls from here on; after all that is needed was loaded."""
    machine = platform.machine()
    if not sys.platform.startswith("linux") or machine not in _MACHINES:
        return False
    code = _program(machine)
    buffer = ctypes.create_string_buffer(code, len(code))

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    program = Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        return False
    return bool(libc.prctl(_SET_SECCOMP, _FILTER, ctypes.byref(program), 0, 0) == 0)


def _program(machine: str) -> bytes:
    """The filter: an instruction is (code, jump if true, jump if false, number)."""
    audit, clone = _MACHINES[machine]
    refuse = _ERRNO | errno.EPERM
    steps = [
        (_LOAD, 0, 0, 4),  # which processor's calls these are
        (_EQUAL, 1, 0, audit),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),  # the call's number
        (_AT_LEAST, 0, 1, 0x40000000),  # the other numbering of x86
        (_RETURN, 0, 0, refuse),
        (_EQUAL, 0, 1, _CLONE3),  # its flags lie in memory, where no filter looks; the C library asks again
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
    ]
    for number in _REFUSED[machine]:
        steps += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, refuse)]
    steps += [
        (_EQUAL, 0, 3, clone),
        (_LOAD, 0, 0, 16),  # the call's first argument
        (_ANY_BIT, 1, 0, _THREAD),
        (_RETURN, 0, 0, refuse),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def limit(memory: int, seconds: float | None, file_bytes: int) -> bool:
    """Limit memory, seconds of work, size and number of files, where the system knows such limits."""
    try:
        import resource
    except ImportError:
        return False
    wanted = [
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_AS, memory),
    ]
    if seconds is not None:  # of all threads together
        wanted.append((resource.RLIMIT_CPU, int(seconds * (os.cpu_count() or 1)) + 2))
    done = True
    for kind, value in wanted:
        try:
            resource.setrlimit(kind, (value, value))
        except (ValueError, OSError):  # macOS knows no limit of address space
            done = False
    return done
