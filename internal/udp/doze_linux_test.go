package udp

import (
	"errors"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/internal/doze"
)

func makeRoom(t *testing.T) {
	before := runtime.GOMAXPROCS(runtime.NumCPU())
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
	doze.MakeRoom()
}

// TestDozing has all of it once more in the manner of the programs.
func TestDozing(t *testing.T) {
	makeRoom(t)
	t.Run("bursts", TestBurstArrives)
	t.Run("address", TestAnswerComesFromTheAddressAsked)
	t.Run("errors", TestErrors)
	t.Run("allocations", TestBurstsDoNotAllocate)
}

// TestIdle: a socket to which nothing comes keeps nobody awake.
func TestIdle(t *testing.T) {
	makeRoom(t)
	conn, err := Listen("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var returned atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for conn.Receive(func([]byte, Route) {}) == nil {
			returned.Add(1)
		}
	}()
	<-time.After(2 * doze.Longest)
	before := returned.Load()
	<-time.After(4 * doze.Longest)
	if more := returned.Load() - before; more > 2 {
		t.Errorf("Receive has returned %d times with nothing", more)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	<-done
}

// TestCloseWakes closes a socket on which somebody waits, before it takes itself for idle
// and, where it cannot doze, as one that is.
func TestCloseWakes(t *testing.T) {
	for _, dozing := range []bool{true, false} {
		if dozing {
			makeRoom(t)
		} else {
			runtime.GOMAXPROCS(runtime.NumCPU())
		}
		conn, err := Listen("udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if conn.room != dozing {
			t.Fatalf("room: %t", conn.room)
		}
		ended := make(chan error)
		go func() {
			for {
				if err := conn.Receive(func([]byte, Route) {}); err != nil {
					ended <- err
					return
				}
			}
		}()
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		select {
		case err := <-ended:
			if !errors.Is(err, net.ErrClosed) {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("Receive goes on")
		}
		if _, err := conn.Send(&Burst{}, Route{}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Send after Close: %v", err)
		}
		if err := conn.Close(); err != nil {
			t.Errorf("the second Close: %v", err)
		}
	}
}
