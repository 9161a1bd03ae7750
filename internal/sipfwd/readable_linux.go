package sipfwd

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// awaitReadable waits until the socket has something to read, or a fault to tell.
func awaitReadable(raw syscall.RawConn) error {
	return raw.Read(func(fd uintptr) bool {
		poll := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll[:], 0)
		return n > 0 || err != nil && err != unix.EINTR
	})
}
