package doze_test

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/siptunnel/siptunnel/internal/doze"
)

func makeRoom(t *testing.T) {
	before := runtime.GOMAXPROCS(runtime.NumCPU())
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
	if doze.Room() {
		t.Fatal("there is room before any was made")
	}
	doze.MakeRoom()
	if !doze.Room() {
		t.Fatal("no room was made")
	}
}

// TestQuotaIsKept: where the runtime has been given fewer processors than there are, it
// gets no more.
func TestQuotaIsKept(t *testing.T) {
	if runtime.NumCPU() == 1 {
		t.Skip("one processor: fewer cannot be given")
	}
	before := runtime.GOMAXPROCS(runtime.NumCPU() - 1)
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
	doze.MakeRoom()
	if doze.Room() || runtime.GOMAXPROCS(0) != runtime.NumCPU()-1 {
		t.Errorf("%d processors", runtime.GOMAXPROCS(0))
	}
}

// TestOthersRun has more threads doze than a program has, and the garbage collector stop
// them many times meanwhile.
func TestOthersRun(t *testing.T) {
	makeRoom(t)
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(epoll)
	var stop atomic.Bool
	done := make(chan struct{})
	for i := range 2 {
		go func() {
			var events [1]unix.EpollEvent
			for !stop.Load() {
				if i == 0 {
					doze.Nap(doze.Longest)
				} else if n := doze.Wait(epoll, events[:]); n != 0 {
					t.Errorf("%d events of an epoll instance without sockets", n)
				}
			}
			done <- struct{}{}
		}()
	}
	began := time.Now()
	const collections = 50
	for range collections {
		runtime.GC()
	}
	if each := time.Since(began) / collections; each > doze.Longest/2 {
		t.Errorf("a collection took %v: it waits for who dozes", each)
	}
	stop.Store(true)
	<-done
	<-done
}

// TestLongestIsReached: neither the runtime's signals nor anything else end a wait before
// its time, as they would for a thread that has nothing to do and never learnt it.
func TestLongestIsReached(t *testing.T) {
	makeRoom(t)
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(epoll)
	began := time.Now()
	var events [1]unix.EpollEvent
	doze.Wait(epoll, events[:])
	if took := time.Since(began); took < doze.Longest-5*time.Millisecond {
		t.Errorf("it has waited for %v", took)
	}
}

func TestPoll(t *testing.T) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(epoll)
	fd, err := unix.Eventfd(1, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var events [4]unix.EpollEvent
	if n := doze.Poll(epoll, events[:]); n != 0 {
		t.Errorf("%d events before there is a socket", n)
	}
	if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: 7}); err != nil {
		t.Fatal(err)
	}
	if n := doze.Wait(epoll, events[:]); n != 1 || events[0].Fd != 7 {
		t.Errorf("%d events, %+v", n, events[0])
	}
}
