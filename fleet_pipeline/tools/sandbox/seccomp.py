"""The filter of system calls, as the classic BPF program that seccomp takes.

It refuses what Landlock does not cover, and what a test or a compiler never needs. In three ways:

- with EPERM: reaching other processes, sockets, mounts, namespaces, keys, kernel interfaces with a history of escapes;
- with "not there" (ENOSYS): `clone3`, whose flags a filter cannot see, so that libc falls back to `clone`, and calls that are newer
  than this list;
- without any effect, but with success: `setsid`, `chmod`, `chown`, `utime`. Landlock does not cover the last three, so they would reach every file
  that the user owns. `shutil.copy`, `cargo` and `go build` give up if they fail, and need no more than that they do not.

Numbers are the kernel's (asm/unistd_64.h, asm-generic/unistd.h). They never change.
"""

import ctypes
import errno
import os
import struct

# By name: x86_64, aarch64. None: there is no such call there.
Numbers = dict[str, tuple[int | None, int | None]]

_REFUSED: Numbers = {
    # Other processes.
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    # Mounts and namespaces.
    "mount": (165, 40),
    "umount2": (166, 39),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "open_tree": (428, 428),
    "mount_setattr": (442, 442),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_tree_attr": (467, 467),
    "listmount": (458, 458),
    "statmount": (457, 457),
    # Interfaces that have been ways out, or that reach past a filter of calls.
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "fanotify_init": (300, 262),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "personality": (135, 92),
    "modify_ldt": (154, None),
    "uselib": (134, None),
    "memfd_secret": (447, 447),  # memory that nobody can count
    "lookup_dcookie": (212, 18),
    "io_setup": (206, 0),
    "vhangup": (153, 58),
    # The machine.
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "syslog": (103, 116),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "settimeofday": (164, 170),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "iopl": (172, None),
    "ioperm": (173, None),
    # Memory and queues that all processes of a user share.
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "semget": (64, 190),
    "semop": (65, 193),
    "semctl": (66, 191),
    "semtimedop": (220, 192),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    # Sockets: `socketpair` of streams alone is left (see `_socketpair`).
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "file_setattr": (469, 469),
    # A program is confined by now. Rules of its own would be memory of the kernel that nobody counts: 1.3 GiB in six seconds.
    "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
}
_WITHOUT_EFFECT: Numbers = {
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "lchown": (94, None),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "utimensat": (280, 88),
    "futimesat": (261, None),
    # Each session has a share of the processor of its own, whatever its nice value is: thirty left the engine 4 % of a core.
    "setsid": (112, 157),
}
_NO_ATTRIBUTES: Numbers = {
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
}
_ATTRIBUTES_READ: Numbers = {
    "getxattr": (191, 8),
    "lgetxattr": (192, 9),
    "fgetxattr": (193, 10),
    "getxattrat": (464, 464),
    "listxattr": (194, 11),
    "llistxattr": (195, 12),
    "flistxattr": (196, 13),
    "listxattrat": (465, 465),
}
_SIGNALS: Numbers = {
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "pidfd_send_signal": (424, 424),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
}
_FORKS: Numbers = {"fork": (57, None), "vfork": (58, None)}
_CLONE_THREAD, _CLONE_FILES, _CLONE_PARENT = 0x00010000, 0x00000400, 0x00008000
_CLOSE_RANGE, _CLOSE_RANGE_UNSHARE = (436, 436), 2
_PRCTL, _SET_DUMPABLE = (157, 167), 4
_CLONE3 = (435, 435)
_CLONE = (56, 220)
_SOCKETPAIR = (53, 199)
_SETSOCKOPT, _BUFFERS = (54, 208), (7, 8, 32, 33)  # SO_SNDBUF, SO_RCVBUF, and the same by force
_IOCTL = (16, 29)
_FCNTL, _F_SETLEASE, _F_NOTIFY = (72, 25), 1024, 1026
_HINTS = (1036, 1038)  # F_SET_RW_HINT, F_SET_FILE_RW_HINT
_SHARED_BLOCKS = (0x40049409, 0x4020940D, 0xC0189436)  # FICLONE, FICLONERANGE, FIDEDUPERANGE
OF_TERMINALS, OF_SOCKETS = 0x5400, 0x8900  # kinds of ioctl
_OWNERS_OF_DESCRIPTORS = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX
_OWNERS_OF_SOCKETS = (0x8901, 0x8902)  # FIOSETOWN, SIOCSPGRP
_PRLIMIT64 = (302, 261)
_SCHED_SETAFFINITY = (203, 122)

_NEWEST = 469  # of the calls that were looked at for this list: `file_setattr`, of Linux 6.17

_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column of the tables, AUDIT_ARCH
_NAMESPACES = 0x7E020080  # CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET} and CLONE_NEWTIME
_TERMINAL_INPUT = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: they type for whoever reads the terminal
_AF_UNIX, _SOCK_DGRAM, _SOCK_RAW, _SOCK_TYPES = 1, 2, 3, 0xF

_LOAD, _EQUAL, _ANY_BIT, _AND, _RETURN, _AT_LEAST = 0x20, 0x15, 0x45, 0x54, 0x06, 0x35
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER_AT, _ARCH_AT, _ARGS_AT = 0, 4, 16
_X32 = 0x40000000  # the other ABI of x86_64, with numbers of its own


def program(machine: str, *, deny_signals: bool, deny_processes: bool = False) -> bytes:
    """The filter, as an array of `sock_filter`. Raises `KeyError` for an architecture it does not know.

    `deny_signals`: neither Landlock nor a namespace keeps signals in, so none can be sent. `deny_processes`: threads alone can be
    started.
    """
    column, arch = _ARCHITECTURES[machine]
    code: list[tuple[int, int, int, int]] = [
        (_LOAD, 0, 0, _ARCH_AT),
        (_EQUAL, 1, 0, arch),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    if machine == "x86_64":
        code += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _KILL)]

    code += [(_AT_LEAST, 0, 1, _NEWEST + 1), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]

    def answer(numbers: Numbers, value: int) -> None:
        for both in numbers.values():
            number = both[column]
            if number is not None:
                code.extend([(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | value)])

    def when(number: int, *checks: tuple[int, int, int, int]) -> None:
        """For one call: `checks` end in a return, or pass on with the number loaded again."""
        body = [*checks, (_LOAD, 0, 0, _NUMBER_AT)]
        code.extend([(_EQUAL, 0, len(body), number), *body])

    refuse, allow = (_RETURN, 0, 0, _ERRNO | errno.EPERM), (_RETURN, 0, 0, _ALLOW)
    answer(_WITHOUT_EFFECT, 0)
    answer(_NO_ATTRIBUTES | _ATTRIBUTES_READ, errno.EOPNOTSUPP)
    # One call takes a whole disk before anybody looks. Libraries write instead, which takes time.
    answer({"fallocate": (285, 47)}, errno.EOPNOTSUPP)
    answer(_REFUSED, errno.EPERM)
    answer({"clone3": _CLONE3}, errno.ENOSYS)
    if deny_signals:
        answer(_SIGNALS, errno.EPERM)
    if deny_processes:
        answer(_FORKS, errno.EPERM)
        when(_CLONE[column], _argument(0), (_ANY_BIT, 1, 0, _CLONE_THREAD), refuse)
    when(_CLONE[column], _argument(0), (_ANY_BIT, 0, 1, _NAMESPACES), refuse)
    # Its children would be the launcher's: while there was always one that had ended, no bound was looked at.
    when(_CLONE[column], _argument(0), (_ANY_BIT, 0, 1, _CLONE_PARENT), refuse)
    # A thread with descriptors of its own, or a process that hides them, could hold files and sockets that the launcher cannot see.
    when(_CLONE[column], _argument(0), (_ANY_BIT, 0, 2, _CLONE_THREAD), (_ANY_BIT, 1, 0, _CLONE_FILES), refuse)
    when(_CLOSE_RANGE[column], _argument(2), (_ANY_BIT, 0, 1, _CLOSE_RANGE_UNSHARE), refuse)
    when(_PRCTL[column], _argument(0), (_EQUAL, 0, 1, _SET_DUMPABLE), (_RETURN, 0, 0, _ERRNO))
    # A pair of datagram sockets could send to any socket's path; a pair of streams reaches nobody else.
    when(
        _SOCKETPAIR[column],
        _argument(0),
        (_EQUAL, 1, 0, _AF_UNIX),
        refuse,
        _argument(1),
        (_AND, 0, 0, _SOCK_TYPES),
        (_EQUAL, 1, 0, _SOCK_DGRAM),
        (_EQUAL, 0, 1, _SOCK_RAW),
        refuse,
    )
    when(_IOCTL[column], _argument(1), (_EQUAL, 1, 0, _TERMINAL_INPUT[0]), (_EQUAL, 0, 1, _TERMINAL_INPUT[1]), refuse)
    # Of all others those of terminals and pipes, of sockets, and to share blocks of two open files. File systems have calls of their own,
    # which look at no rule of Landlock: flags and seals of files that may only be read, and on Btrfs whole snapshots into their folders.
    when(
        _IOCTL[column],
        _argument(1),
        *((_EQUAL, 3 + len(_SHARED_BLOCKS) - index, 0, one) for index, one in enumerate(_SHARED_BLOCKS)),
        (_AND, 0, 0, 0xFF00),
        (_EQUAL, 2, 0, OF_TERMINALS),
        (_EQUAL, 1, 0, OF_SOCKETS),
        (_RETURN, 0, 0, _ERRNO | errno.ENOTTY),
    )
    # Of sockets' own those that concern their owner alone: others tell the host's addresses, cards and drivers.
    when(
        _IOCTL[column],
        _argument(1),
        (_AND, 0, 0, 0xFFF8),
        (_EQUAL, 4, 0, OF_SOCKETS),
        _argument(1),
        (_AND, 0, 0, 0xFF00),
        (_EQUAL, 0, 1, OF_SOCKETS),
        (_RETURN, 0, 0, _ERRNO | errno.ENOTTY),
    )
    # Larger buffers of sockets would be memory of the kernel that nobody counts: they stay as they are.
    when(
        _SETSOCKOPT[column],
        _argument(2),
        *(
            (_EQUAL, len(_BUFFERS) - 1 - index, int(index == len(_BUFFERS) - 1), one)
            for index, one in enumerate(_BUFFERS)
        ),
        (_RETURN, 0, 0, _ERRNO),
    )
    # A lease on a file that may only be read makes others wait for it, 45 s each time.
    when(_FCNTL[column], _argument(1), (_EQUAL, 1, 0, _F_SETLEASE), (_EQUAL, 0, 1, _F_NOTIFY), refuse)
    for command in _HINTS:  # of how long a file will be kept, also of one that may only be read
        when(_FCNTL[column], _argument(1), (_EQUAL, 0, 1, command), refuse)
    if deny_signals:  # a descriptor that is ready sends its owner a signal, and anybody can be named its owner
        for command in _OWNERS_OF_DESCRIPTORS:
            when(_FCNTL[column], _argument(1), (_EQUAL, 0, 1, command), refuse)
        for command in _OWNERS_OF_SOCKETS:
            when(_IOCTL[column], _argument(1), (_EQUAL, 0, 1, command), refuse)
    for number in (_PRLIMIT64[column], _SCHED_SETAFFINITY[column]):  # of another process than the caller
        when(number, _argument(0), (_EQUAL, 1, 0, 0), refuse)
    code.append(allow)
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _argument(index: int) -> tuple[int, int, int, int]:
    """Load the low half of an argument. All that are looked at are of 32 bits for the kernel, too."""
    return (_LOAD, 0, 0, _ARGS_AT + 8 * index)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def install(*, deny_signals: bool, deny_processes: bool = False) -> None:
    """Filter all further calls of this process and its children. Raises `OSError`; needs `no_new_privs`."""
    try:
        code = program(os.uname().machine, deny_signals=deny_signals, deny_processes=deny_processes)
    except KeyError:
        raise OSError(errno.ENOSYS, f"no filter for {os.uname().machine}") from None
    buffer = ctypes.create_string_buffer(code, len(code))
    wanted = _Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(22, 2, ctypes.byref(wanted), 0, 0) != 0:  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
        raise OSError(ctypes.get_errno(), "seccomp")
