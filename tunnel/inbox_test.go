package tunnel

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestInboxDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q inbox
		q.init(4)
		buf := make([]byte, 10)
		start := time.Now()
		q.setDeadline(start.Add(time.Second))
		if _, err := q.read(buf); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		// A deadline that is past stays so, whatever arrives.
		q.put([]byte("x"), true)
		if _, err := q.read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
		q.setDeadline(time.Time{})
		if n, err := q.read(buf); n != 1 || err != nil {
			t.Error(n, err)
		}
		// One that is moved while somebody waits.
		q.setDeadline(time.Now().Add(time.Hour))
		start = time.Now()
		time.AfterFunc(time.Minute, func() { q.setDeadline(time.Now().Add(-1)) })
		if _, err := q.read(buf); err == nil || time.Since(start) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		var timeout net.Error
		if err := opError("read", nil, os.ErrDeadlineExceeded); !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("%v is no timeout", err)
		}
	})
}

func TestInboxOverflow(t *testing.T) {
	for _, dropOldest := range []bool{true, false} {
		var q inbox
		q.init(6)
		kept := 0
		for i := range 10 {
			if q.put(fmt.Append(nil, i), dropOldest) {
				kept++
			}
		}
		if kept != 6 {
			t.Errorf("kept %d", kept)
		}
		first := 0
		if dropOldest {
			first = 4
		}
		buf := make([]byte, 10)
		for i := range 6 {
			n, err := q.read(buf)
			if got, want := string(buf[:n]), fmt.Sprint(first+i); got != want || err != nil {
				t.Errorf("read %q, %v, want %s", got, err, want)
			}
		}
	}
}

// TestInboxReaders lets several readers share what one writer puts in, then
// closes under them.
func TestInboxReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q inbox
		q.init(1000)
		var wg sync.WaitGroup
		var mu sync.Mutex
		seen := map[string]int{}
		for range 4 {
			wg.Go(func() {
				buf := make([]byte, 10)
				for {
					n, err := q.read(buf)
					if err != nil {
						return
					}
					mu.Lock()
					seen[string(buf[:n])]++
					mu.Unlock()
				}
			})
		}
		for i := range 100 {
			q.put(fmt.Append(nil, i), true)
		}
		synctest.Wait()
		q.put([]byte("last"), true)
		q.close(net.ErrClosed)
		wg.Wait()
		if len(seen) != 101 {
			t.Errorf("%d of 101 were read", len(seen))
		}
		if q.close(net.ErrClosed) || q.setDeadline(time.Now()) == nil {
			t.Error("closed twice")
		}
	})
}

func TestInboxDoesNotAllocate(t *testing.T) {
	var q inbox
	q.init(64)
	packet, buf := make([]byte, 172), make([]byte, 1500)
	for range 65 {
		q.put(packet, true)
	}
	if n := testing.AllocsPerRun(100, func() {
		q.put(packet, true)
		q.read(buf)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestInboxTake: the packet is the taker's, and what comes later does not touch it.
func TestInboxTake(t *testing.T) {
	var q inbox
	q.init(2)
	for _, p := range []string{"one", "two"} {
		q.put([]byte(p), false)
	}
	first, err := q.take()
	if err != nil || string(first) != "one" {
		t.Fatalf("%q, %v", first, err)
	}
	q.put([]byte("six"), false)
	q.put([]byte("ten"), true)
	if string(first) != "one" {
		t.Errorf("it became %q", first)
	}
	for _, want := range []string{"six", "ten"} {
		if p, err := q.take(); err != nil || string(p) != want {
			t.Errorf("%q, %v, want %q", p, err, want)
		}
	}
	q.close(os.ErrClosed)
	if _, err := q.take(); err != os.ErrClosed {
		t.Error(err)
	}
}
