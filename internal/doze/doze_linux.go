package doze

import (
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// MakeRoom gives the runtime processors for the threads that doze. It is for programs, to
// be called at their start; a library leaves GOMAXPROCS alone. Where the runtime has fewer
// processors than the machine, because of a quota for instance, nothing changes.
func MakeRoom() {
	if n := runtime.NumCPU(); runtime.GOMAXPROCS(0) == n {
		runtime.GOMAXPROCS(n + threads)
	}
}

// Room says whether there is room, as MakeRoom makes it. Without, nobody is to call what
// follows.
func Room() bool { return runtime.GOMAXPROCS(0) == runtime.NumCPU()+threads }

// Nap sleeps for d, or until a signal comes.
func Nap(d time.Duration) {
	left := unix.NsecToTimespec(int64(d))
	_, _, _ = unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&left)), 0, 0)
}

// Poll asks an epoll instance for events and returns how many there are. It does not wait.
func Poll(epoll int, events []unix.EpollEvent) int {
	n, _ := poll(epoll, events, 0)
	return n
}

// Wait waits for events, for Longest at most, and returns how many there are. The signals
// that come do not end it: the runtime stops who has a processor for long.
func Wait(epoll int, events []unix.EpollEvent) int {
	n, errno := poll(epoll, events, Longest)
	if errno != unix.EINTR {
		return n
	}
	for until := time.Now().Add(Longest); errno == unix.EINTR && time.Now().Before(until); {
		n, errno = poll(epoll, events, time.Until(until))
	}
	return n
}

func poll(epoll int, events []unix.EpollEvent, wait time.Duration) (int, syscall.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)),
		uintptr(max(wait.Milliseconds(), 0)), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}
