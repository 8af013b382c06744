//! Names of system calls by topic, of x86, ARM and their 32-bit predecessors.

/// What programs need.
pub(super) const ALLOWED: [&str; 11] =
    [FILES, DIRECTORIES, EVENTS, MEMORY, PROCESSES, FUTEXES, SIGNALS, TIME, IDENTITY, IPC, SOCKETS];

/// Calls that are of use only with one of some capabilities.
pub(super) const GATED: [(&[&str], &str); 9] = [
    (&["SYS_CHROOT"], "chroot"),
    (&["SYS_ADMIN"], ADMINISTRATION),
    (&["DAC_READ_SEARCH"], "open_by_handle_at"),
    (&["SYS_PTRACE"], "kcmp pidfd_getfd process_madvise"),
    (&["SYS_NICE"], "mbind migrate_pages move_pages set_mempolicy set_mempolicy_home_node"),
    (&["SYS_BOOT"], "reboot"),
    (&["SYS_TTY_CONFIG"], "vhangup"),
    (&["SYSLOG", "SYS_ADMIN"], "syslog"),
    (&["PERFMON", "SYS_ADMIN"], "perf_event_open"),
];

/// Calls that need capabilities on the host, which no container has: only their faults could be used.
pub(super) const REFUSED: &str = "
    acct bpf clock_settime clock_settime64 delete_module finit_module init_module ioperm iopl
    kexec_file_load kexec_load settimeofday stime swapoff swapon
";

/// Namespaces and mounts: what nested containers are made of, and where most holes of user namespaces are found.
const ADMINISTRATION: &str = "
    fanotify_init fsconfig fsmount fsopen fspick lsm_set_self_attr mount mount_setattr move_mount
    open_tree open_tree_attr pivot_root quotactl quotactl_fd setdomainname sethostname setns umount
    umount2 unshare
";

/// Open files and what is in them.
const FILES: &str = "
    close close_range copy_file_range creat dup dup2 dup3 fadvise64 fadvise64_64
    arm_fadvise64_64 fallocate fcntl fcntl64 fdatasync flock fsync ftruncate ftruncate64 ioctl
    lseek _llseek memfd_create open openat openat2 pipe pipe2 pread64 preadv preadv2 pwrite64
    pwritev pwritev2 read readahead readv sendfile sendfile64 splice sync sync_file_range
    sync_file_range2 arm_sync_file_range syncfs tee truncate truncate64 vmsplice write writev
    cachestat
";

/// Names, attributes, ownership; what is mounted in the own mount namespace. A capability that is lacking makes the
/// kernel itself refuse the change.
const DIRECTORIES: &str = "
    access chdir chmod chown chown32 faccessat faccessat2 fchdir fchmod fchmodat fchmodat2
    fchown fchown32 fchownat fgetxattr file_getattr file_setattr flistxattr fremovexattr
    fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 futimesat getcwd getdents getdents64
    getxattr getxattrat lchown lchown32 lgetxattr link linkat listxattr listxattrat llistxattr
    lremovexattr lsetxattr lstat lstat64 mkdir mkdirat mknod mknodat name_to_handle_at
    newfstatat readlink readlinkat removexattr removexattrat rename renameat renameat2 rmdir
    setxattr setxattrat stat stat64 statfs statfs64 statx symlink symlinkat umask unlink
    unlinkat utime utimensat utimensat_time64 utimes listmount statmount
";

/// Waiting for files, signals, timers and changes of files; the older asynchronous I/O, which databases use.
const EVENTS: &str = "
    _newselect epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd
    eventfd2 fanotify_mark inotify_add_watch inotify_init inotify_init1 inotify_rm_watch poll
    ppoll ppoll_time64 pselect6 pselect6_time64 select signalfd signalfd4 timerfd_create
    timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 io_cancel io_destroy
    io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit
";

/// Memory of the calling process.
const MEMORY: &str = "
    brk get_mempolicy madvise map_shadow_stack membarrier memfd_secret mincore mlock mlock2
    mlockall mmap mmap2 mprotect mremap mseal msync munlock munlockall munmap pkey_alloc
    pkey_free pkey_mprotect process_mrelease remap_file_pages
";

/// Processes and threads. Other processes are reached only as far as user and PID namespace allow, which since Linux 4.8
/// holds for tracers too: a traced process can no longer get past its filter. Also what processor architectures have for
/// themselves, and further restrictions of oneself.
const PROCESSES: &str = "
    capget capset execve execveat exit exit_group fork get_robust_list get_thread_area getcpu
    getpgid getpgrp getpid getppid getpriority getsid gettid ioprio_get ioprio_set kill nice
    pidfd_open pidfd_send_signal prctl process_vm_readv process_vm_writev ptrace restart_syscall
    rseq sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr
    sched_getparam sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64
    sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield
    set_robust_list set_thread_area set_tid_address setpgid setpriority setsid tgkill tkill
    vfork wait4 waitid waitpid arch_prctl breakpoint cacheflush set_tls uretprobe
    landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp lsm_get_self_attr
    lsm_list_modules
";

const FUTEXES: &str = "
    futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake
";

const SIGNALS: &str = "
    alarm getitimer pause rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn
    rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo setitimer sigaction
    sigaltstack signal sigpending sigprocmask sigreturn sigsuspend
";

/// Reading clocks and waiting. `adjtimex` and `clock_adjtime` read as well; to change a clock they need a capability on
/// the host.
const TIME: &str = "
    adjtimex clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime
    clock_gettime64 clock_nanosleep clock_nanosleep_time64 gettimeofday nanosleep time
    timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime
    timer_settime64 times
";

/// Users, groups, limits, and what the system is.
const IDENTITY: &str = "
    getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getrandom
    getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getuid getuid32 prlimit64
    setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setregid
    setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setuid
    setuid32 sysinfo ugetrlimit uname
";

/// System V IPC and POSIX message queues, of the pod's own IPC namespace.
const IPC: &str = "
    ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend
    mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop
    semtimedop_time64 shmat shmctl shmdt shmget
";

/// What is done with a socket; which ones can be made depends on their address family.
const SOCKETS: &str = "
    accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg
    recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown
";
