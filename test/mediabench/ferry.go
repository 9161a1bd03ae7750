//go:build linux

package main

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/siptunnel/siptunnel/test/impair"
)

// A ferry joins two hosts as a network card and a cable would: who sends a packet has
// put it into a queue, and what the other host has to do with it is done at the expense
// of this program. On loopback and over a veth pair the sender's time goes to its
// receiver's work too.
type ferry struct {
	ends [2]int // descriptors of TUN devices
	work sync.WaitGroup
	stop atomic.Bool
}

func newFerry(a, b host, device string) (*ferry, error) {
	f := &ferry{ends: [2]int{-1, -1}}
	for i, h := range []host{a, b} {
		err := h.do(func() (err error) { f.ends[i], err = impair.OpenTUN(device); return err })
		if err != nil {
			f.close()
			return nil, err
		}
	}
	for i := range f.ends {
		f.work.Go(func() { f.carry(f.ends[i], f.ends[1-i]) })
	}
	return f, nil
}

func (f *ferry) close() {
	if f == nil {
		return
	}
	f.stop.Store(true)
	f.work.Wait()
	for _, fd := range f.ends {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// carry looks once a millisecond: it is never woken, which the sender would pay for.
func (f *ferry) carry(from, to int) {
	buf := make([]byte, 65535)
	for !f.stop.Load() {
		n, err := unix.Read(from, buf)
		if err != nil {
			nap(time.Millisecond)
			continue
		}
		_, _ = unix.Write(to, buf[:n])
	}
}
