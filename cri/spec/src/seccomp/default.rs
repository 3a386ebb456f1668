//! The profile that containers run with unless they ask for another: what `RuntimeDefault` means.
//!
//! It allows what the default profile of containerd 2.3 allows, so workloads find no difference, but for three doors
//! that stand open there:
//!
//! - `socketcall` of 32-bit x86 makes a socket of any family, and a filter cannot look behind its pointer. It answers
//!   `ENOSYS`; libcs have used the direct calls since Linux 4.3 (CVE-2026-123876).
//! - The socket families are compared in the 32 bits that the kernel looks at. A comparison of all 64 bits is passed
//!   by `AF_ALG` with any bit set in the upper half.
//! - x32 calls answer `ENOSYS`.

use super::argument;
use crate::Architecture;
use oci_spec::runtime::{
    Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg,
    LinuxSeccompFilterFlag, LinuxSeccompOperator, LinuxSyscall,
};

const ENOSYS: u32 = 38;

/// The clone flags that make namespaces (`<linux/sched.h>`). `CLONE_NEWTIME` is not a flag of `clone(2)`.
const CLONE_NEW: u64 = 0x0002_0000 // CLONE_NEWNS
    | 0x0200_0000 // CLONE_NEWCGROUP
    | 0x0400_0000 // CLONE_NEWUTS
    | 0x0800_0000 // CLONE_NEWIPC
    | 0x1000_0000 // CLONE_NEWUSER
    | 0x2000_0000 // CLONE_NEWPID
    | 0x4000_0000; // CLONE_NEWNET

/// The profile for a container whose bounding set is `capabilities`.
pub fn default_profile(capabilities: &Capabilities, architecture: Architecture) -> LinuxSeccomp {
    let mut rules: Vec<LinuxSyscall> =
        ALWAYS.iter().map(|group| allow(group.calls, Vec::new())).collect();
    rules.push(allow(of_architecture(architecture), Vec::new()));
    rules.extend(PERSONALITIES.map(|value| allow(&["personality"], vec![equal(0, value)])));
    rules.extend(
        SOCKET_FAMILIES.map(|(mask, family)| allow(&["socket"], vec![masked(0, mask, family)])),
    );
    for grant in GRANTS {
        if capabilities.contains(&grant.capability) {
            rules.push(allow(grant.calls, Vec::new()));
        }
    }
    if !capabilities.contains(&Capability::SysAdmin) {
        rules.push(allow(&["clone"], vec![masked(0, CLONE_NEW, 0)]));
        // The flags of clone3 are behind a pointer; with ENOSYS libc falls back to clone.
        rules.push(unknown(&["clone3"]));
    }
    rules.push(unknown(&["socketcall"]));

    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_architectures(Some(architecture.seccomp().to_vec()))
        // The mitigation costs a third of the speed and guards against spectre v4 within one process only;
        // the kernel no longer couples it to seccomp by itself since 5.16, and runc sets this flag too.
        .set_flags(Some(vec![LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow]))
        .set_syscalls(Some(rules));
    profile
}

fn allow(calls: &[&str], arguments: Vec<LinuxSeccompArg>) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(calls.iter().map(|call| (*call).to_owned()).collect())
        .set_action(LinuxSeccompAction::ScmpActAllow)
        .set_args((!arguments.is_empty()).then_some(arguments));
    rule
}

fn unknown(calls: &[&str]) -> LinuxSyscall {
    let mut rule = allow(calls, Vec::new());
    rule.set_action(LinuxSeccompAction::ScmpActErrno).set_errno_ret(Some(ENOSYS));
    rule
}

fn equal(index: usize, value: u64) -> LinuxSeccompArg {
    argument(index, LinuxSeccompOperator::ScmpCmpEq, value, None)
}

fn masked(index: usize, mask: u64, value: u64) -> LinuxSeccompArg {
    argument(index, LinuxSeccompOperator::ScmpCmpMaskedEq, mask, Some(value))
}

/// `personality(2)`: Linux, Linux with 32-bit `uname`, 16 and 32-bit ids, both, and "tell me". Not among them:
/// `ADDR_NO_RANDOMIZE`, `READ_IMPLIES_EXEC`.
const PERSONALITIES: [u64; 5] = [0x0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// `socket(2)`: all families but `AF_ALG` (38: the kernel's ciphers, often a way in) and `AF_VSOCK` (40: the
/// hypervisor, which knows no network namespaces), as masks of the lower half and what must be left of it.
const SOCKET_FAMILIES: [(u64, u64); 7] = [
    (0xffff_ffe0, 0),  // 0 to 31
    (0xffff_fffc, 32), // 32 to 35
    (0xffff_fffe, 36), // 36, 37
    (0xffff_ffff, 39),
    (0xffff_ffff, 41),
    (0xffff_fffe, 42), // 42, 43
    (0xffff_fffc, 44), // 44 to 47; the last one of Linux 6.18 is 45
];

fn of_architecture(architecture: Architecture) -> &'static [&'static str] {
    match architecture {
        // Thread pointers and the descriptor table of old emulators.
        Architecture::X86_64 => &["arch_prctl", "modify_ldt"],
        // The private calls of 32-bit programs, and their order of arguments.
        Architecture::Aarch64 => &[
            "arm_fadvise64_64",
            "arm_sync_file_range",
            "breakpoint",
            "cacheflush",
            "set_tls",
            "sync_file_range2",
        ],
    }
}

/// Calls that every container may make, with the reason why.
struct Group {
    /// What they have in common, and why they are harmless.
    #[cfg_attr(not(test), expect(dead_code, reason = "for readers, and a test that it is there"))]
    reason: &'static str,
    calls: &'static [&'static str],
}

/// Calls that come with a capability: the kernel checks that capability in them anyway, so without it they are noise
/// that only widens the kernel's surface.
struct Grant {
    capability: Capability,
    calls: &'static [&'static str],
}

#[rustfmt::skip]
const ALWAYS: &[Group] = &[
    Group {
        reason: "files and directories: the kernel checks owner, mode and mount",
        calls: &[
            "access", "chdir", "chmod", "chown", "chown32", "close", "close_range", "copy_file_range", "creat", "dup", "dup2", "dup3",
            "faccessat", "faccessat2", "fadvise64", "fadvise64_64", "fallocate", "fchdir", "fchmod", "fchmodat", "fchmodat2",
            "fchown", "fchown32", "fchownat", "fcntl", "fcntl64", "fdatasync", "flock", "fstat", "fstat64", "fstatat64", "fstatfs",
            "fstatfs64", "fsync", "ftruncate", "ftruncate64", "futimesat", "getcwd", "getdents", "getdents64", "ioctl", "lchown",
            "lchown32", "link", "linkat", "_llseek", "lseek", "lstat", "lstat64", "mkdir", "mkdirat", "mknod", "mknodat",
            "name_to_handle_at", "newfstatat", "open", "openat", "openat2", "pread64", "preadv", "preadv2", "pwrite64", "pwritev",
            "pwritev2", "read", "readahead", "readlink", "readlinkat", "readv", "rename", "renameat", "renameat2", "rmdir",
            "sendfile", "sendfile64", "splice", "stat", "stat64", "statfs", "statfs64", "statx", "symlink", "symlinkat", "sync",
            "sync_file_range", "syncfs", "tee", "truncate", "truncate64", "umask", "unlink", "unlinkat", "utime", "utimensat",
            "utimensat_time64", "utimes", "vmsplice", "write", "writev",
        ],
    },
    Group {
        reason: "extended attributes: the kernel checks each name space of names",
        calls: &[
            "fgetxattr", "flistxattr", "fremovexattr", "fsetxattr", "getxattr", "getxattrat", "lgetxattr", "listxattr",
            "listxattrat", "llistxattr", "lremovexattr", "lsetxattr", "removexattr", "removexattrat", "setxattr", "setxattrat",
        ],
    },
    Group {
        reason: "reading one's own mount namespace: it shows what /proc/self/mountinfo shows",
        calls: &["listmount", "statmount"],
    },
    Group {
        reason: "waiting for files, and the old asynchronous interface; io_uring is left out: it carries calls past filters",
        calls: &[
            "epoll_create", "epoll_create1", "epoll_ctl", "epoll_ctl_old", "epoll_pwait", "epoll_pwait2", "epoll_wait",
            "epoll_wait_old", "eventfd", "eventfd2", "fanotify_mark", "inotify_add_watch", "inotify_init", "inotify_init1",
            "inotify_rm_watch", "io_cancel", "io_destroy", "io_getevents", "io_pgetevents", "io_pgetevents_time64", "io_setup",
            "io_submit", "_newselect", "pipe", "pipe2", "poll", "ppoll", "ppoll_time64", "pselect6", "pselect6_time64", "select",
        ],
    },
    Group {
        reason: "one's own address space; userfaultfd is left out: it stretches races in the kernel",
        calls: &[
            "brk", "cachestat", "madvise", "map_shadow_stack", "membarrier", "memfd_create", "memfd_secret", "mincore", "mlock",
            "mlock2", "mlockall", "mmap", "mmap2", "mprotect", "mremap", "mseal", "msync", "munlock", "munlockall", "munmap",
            "pkey_alloc", "pkey_free", "pkey_mprotect", "remap_file_pages",
        ],
    },
    Group {
        reason: "processes and threads; clone is below, by its flags",
        calls: &[
            "execve", "execveat", "exit", "exit_group", "fork", "get_robust_list", "get_thread_area", "getcpu", "getpgid", "getpgrp",
            "getpid", "getppid", "getsid", "gettid", "kill", "pidfd_open", "pidfd_send_signal", "prctl", "process_mrelease",
            "restart_syscall", "rseq", "set_robust_list", "set_thread_area", "set_tid_address", "setpgid", "setsid", "tgkill",
            "tkill", "uretprobe", "vfork", "wait4", "waitid", "waitpid",
        ],
    },
    Group {
        reason: "tracing and reading processes that are one's own; before Linux 4.8 ptrace could step around a filter",
        calls: &["process_vm_readv", "process_vm_writev", "ptrace"],
    },
    Group {
        reason: "futexes",
        calls: &["futex", "futex_requeue", "futex_time64", "futex_wait", "futex_waitv", "futex_wake"],
    },
    Group {
        reason: "signals",
        calls: &[
            "pause", "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo", "rt_sigreturn", "rt_sigsuspend",
            "rt_sigtimedwait", "rt_sigtimedwait_time64", "rt_tgsigqueueinfo", "sigaltstack", "signalfd", "signalfd4",
            "sigprocmask", "sigreturn",
        ],
    },
    Group {
        reason: "users and groups: the kernel checks CAP_SETUID, CAP_SETGID and CAP_SETPCAP",
        calls: &[
            "capget", "capset", "getegid", "getegid32", "geteuid", "geteuid32", "getgid", "getgid32", "getgroups", "getgroups32",
            "getresgid", "getresgid32", "getresuid", "getresuid32", "getuid", "getuid32", "setfsgid", "setfsgid32", "setfsuid",
            "setfsuid32", "setgid", "setgid32", "setgroups", "setgroups32", "setregid", "setregid32", "setresgid", "setresgid32",
            "setresuid", "setresuid32", "setreuid", "setreuid32", "setuid", "setuid32",
        ],
    },
    Group {
        reason: "sandboxing oneself further",
        calls: &[
            "landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self", "lsm_get_self_attr", "lsm_list_modules",
            "lsm_set_self_attr", "seccomp",
        ],
    },
    Group {
        reason: "sockets; socket itself is below, by its family",
        calls: &[
            "accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "listen", "recv", "recvfrom",
            "recvmmsg", "recvmmsg_time64", "recvmsg", "send", "sendmmsg", "sendmsg", "sendto", "setsockopt", "shutdown", "socketpair",
        ],
    },
    Group {
        reason: "System V IPC and message queues, which live in the pod's IPC namespace",
        calls: &[
            "ipc", "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedreceive_time64", "mq_timedsend",
            "mq_timedsend_time64", "mq_unlink", "msgctl", "msgget", "msgrcv", "msgsnd", "semctl", "semget", "semop", "semtimedop",
            "semtimedop_time64", "shmat", "shmctl", "shmdt", "shmget",
        ],
    },
    Group {
        reason: "clocks and timers: reading, and adjtimex, where the kernel checks CAP_SYS_TIME for changes",
        calls: &[
            "adjtimex", "alarm", "clock_adjtime", "clock_adjtime64", "clock_getres", "clock_getres_time64", "clock_gettime",
            "clock_gettime64", "clock_nanosleep", "clock_nanosleep_time64", "getitimer", "gettimeofday", "nanosleep", "setitimer",
            "time", "timer_create", "timer_delete", "timer_getoverrun", "timer_gettime", "timer_gettime64", "timer_settime",
            "timer_settime64", "timerfd_create", "timerfd_gettime", "timerfd_gettime64", "timerfd_settime", "timerfd_settime64",
            "times",
        ],
    },
    Group {
        reason: "scheduling and limits: the kernel checks CAP_SYS_NICE and CAP_SYS_RESOURCE for more than one has",
        calls: &[
            "getpriority", "getrlimit", "getrusage", "ioprio_get", "ioprio_set", "prlimit64", "sched_get_priority_max",
            "sched_get_priority_min", "sched_getaffinity", "sched_getattr", "sched_getparam", "sched_getscheduler",
            "sched_rr_get_interval", "sched_rr_get_interval_time64", "sched_setaffinity", "sched_setattr", "sched_setparam",
            "sched_setscheduler", "sched_yield", "setpriority", "setrlimit", "ugetrlimit",
        ],
    },
    Group {
        reason: "facts about the system, and random numbers",
        calls: &["getrandom", "sysinfo", "uname"],
    },
];

#[rustfmt::skip]
const GRANTS: &[Grant] = &[
    Grant { capability: Capability::DacReadSearch, calls: &["open_by_handle_at"] },
    Grant {
        capability: Capability::SysAdmin,
        calls: &[
            "bpf", "clone", "clone3", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick", "lookup_dcookie", "mount",
            "mount_setattr", "move_mount", "open_tree", "perf_event_open", "quotactl", "quotactl_fd", "setdomainname",
            "sethostname", "setns", "syslog", "umount", "umount2", "unshare",
        ],
    },
    Grant { capability: Capability::SysBoot, calls: &["reboot"] },
    Grant { capability: Capability::SysChroot, calls: &["chroot"] },
    Grant { capability: Capability::SysModule, calls: &["delete_module", "finit_module", "init_module"] },
    Grant { capability: Capability::SysPacct, calls: &["acct"] },
    Grant {
        capability: Capability::SysPtrace,
        calls: &["kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace"],
    },
    Grant { capability: Capability::SysRawio, calls: &["ioperm", "iopl"] },
    Grant { capability: Capability::SysTime, calls: &["clock_settime", "clock_settime64", "settimeofday", "stime"] },
    Grant { capability: Capability::SysTtyConfig, calls: &["vhangup"] },
    Grant { capability: Capability::SysNice, calls: &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"] },
    Grant { capability: Capability::Syslog, calls: &["syslog"] },
    Grant { capability: Capability::Bpf, calls: &["bpf"] },
    Grant { capability: Capability::Perfmon, calls: &["perf_event_open"] },
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_call_of_the_table_is_there_once_and_every_group_has_a_reason() {
        let mut seen = BTreeSet::new();
        for group in ALWAYS {
            assert!(!group.reason.is_empty());
            for call in group.calls {
                assert!(seen.insert(*call), "{call} is listed twice");
            }
        }
        assert_eq!(seen.len(), ALLOWED_BY_CONTAINERD, "calls that are always allowed");
    }

    /// The length of the unconditional list of containerd 2.3.4 (`contrib/seccomp/seccomp_default.go`), without
    /// `socketcall` and with the three of its part for Linux 4.8.
    const ALLOWED_BY_CONTAINERD: usize = 365;
}
