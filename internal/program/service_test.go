package program

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/siptunnel/siptunnel/internal/config"
	"github.com/siptunnel/siptunnel/internal/config/sdnotify"
)

// manager is the service manager's socket; the function gives what the program says next.
func manager(t *testing.T) (next func() string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return func() string {
		buf := make([]byte, 64)
		n, err := conn.Read(buf)
		if err != nil {
			t.Error(err)
		}
		return string(buf[:n])
	}
}

func TestServiceEndsInReverse(t *testing.T) {
	next := manager(t)
	ctx, cancel := context.WithCancel(t.Context())
	s := NewService(zap.NewNop())
	var order []int
	ended := make(chan error)
	ready := make(chan struct{})
	go func() {
		ended <- s.Run(ctx, func() error {
			for i := range 3 {
				s.OnStop(func() { order = append(order, i) })
			}
			return nil
		}, ready)
	}()
	close(ready)
	if state := next(); state != sdnotify.Ready {
		t.Errorf("told %s", state)
	}
	cancel()
	if state := next(); state != sdnotify.Stopping {
		t.Errorf("told %s", state)
	}
	if err := <-ended; err != nil || !slices.Equal(order, []int{2, 1, 0}) {
		t.Errorf("%v, %v", err, order)
	}
}

func TestServiceFailsBeforeItIsReady(t *testing.T) {
	next := manager(t)
	s := NewService(zap.NewNop())
	refused := errors.New("refused")
	err := s.Run(t.Context(), func() error {
		s.Fail(refused)
		s.Fail(errors.New("too late"))
		return nil
	}, make(chan struct{}))
	if !errors.Is(err, refused) {
		t.Errorf("got %v", err)
	}
	if state := next(); state != sdnotify.Stopping {
		t.Errorf("told %s", state)
	}
}

func TestServiceIsReadyInTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewService(zap.NewNop())
		ctx, cancel := context.WithTimeout(t.Context(), readyTimeout+time.Second)
		defer cancel()
		if err := s.Run(ctx, func() error { return nil }, make(chan struct{})); err != nil {
			t.Error(err)
		}
	})
}

func TestServiceUndoesAStartThatFailed(t *testing.T) {
	s := NewService(zap.NewNop())
	broken, undone := errors.New("broken"), false
	err := s.Run(t.Context(), func() error {
		s.OnStop(func() { undone = true })
		return broken
	}, nil)
	if !errors.Is(err, broken) || !undone {
		t.Errorf("%v, undone %v", err, undone)
	}
}

func TestServiceDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewService(zap.NewNop())
		stuck := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		err := s.Run(ctx, func() error { s.OnStop(func() { <-stuck }); return nil }, nil)
		close(stuck)
		if config.ExitOf(err) != config.ExitFailed {
			t.Errorf("got %v", err)
		}
	})
}
