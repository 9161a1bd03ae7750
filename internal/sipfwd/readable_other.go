//go:build !linux

package sipfwd

import "syscall"

// awaitReadable does not wait: the caller's reading does.
func awaitReadable(syscall.RawConn) error { return nil }
