package program

import (
	"context"
	"errors"
	"os"
	"time"

	"go.uber.org/zap"

	"github.com/siptunnel/siptunnel/internal/config"
	"github.com/siptunnel/siptunnel/internal/config/sdnotify"
)

const (
	// stopTimeout is how long a clean end may take before the program leaves all the same. Service managers and people
	// count on five seconds.
	stopTimeout = 4500 * time.Millisecond
	// readyTimeout is how long the service manager is kept waiting by what may come right later.
	readyTimeout = 5 * time.Second
)

// Service is the life of serve. OnStop is for the goroutine that starts it; Fail is safe for concurrent use.
type Service struct {
	log     *zap.Logger
	failed  chan error // capacity 1: why it cannot go on
	closers []func()   // undo the start, last first
}

// NewService makes a Service that has not started.
func NewService(log *zap.Logger) *Service { return &Service{log: log, failed: make(chan error, 1)} }

// OnStop has f called at the end, before what was given earlier. f waits for what it ends.
func (s *Service) OnStop(f func()) { s.closers = append(s.closers, f) }

// Fail ends Run with err, unless something else has ended it already.
func (s *Service) Fail(err error) {
	select {
	case s.failed <- err:
	default:
	}
}

// Run starts, serves until ctx is done or Fail is called, and ends with what OnStop was given, for which there are
// stopTimeout. A start that fails is undone in the same way. The service manager is told that the program is ready when
// ready is closed, at the latest after readyTimeout; nil means at once.
func (s *Service) Run(ctx context.Context, start func() error, ready <-chan struct{}) error {
	err := start()
	if err == nil {
		err = s.serve(ctx, ready)
		s.notify(sdnotify.Stopping)
	}
	return errors.Join(err, s.stop())
}

func (s *Service) serve(ctx context.Context, ready <-chan struct{}) error {
	patience := time.NewTimer(readyTimeout)
	defer patience.Stop()
	late := patience.C
	if ready == nil {
		s.notify(sdnotify.Ready)
		late = nil
	}
	for {
		select {
		case <-ctx.Done():
			s.log.Info("stopping")
			return nil
		case err := <-s.failed:
			return err
		case <-ready:
		case <-late:
		}
		s.notify(sdnotify.Ready)
		ready, late = nil, nil
	}
}

func (s *Service) notify(state string) {
	if err := sdnotify.Notify(os.Getenv("NOTIFY_SOCKET"), state); err != nil {
		s.log.Warn("the service manager cannot be told", zap.String("state", state), zap.Error(err))
	}
}

// stop undoes the start, in reverse, for no longer than stopTimeout.
func (s *Service) stop() error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := len(s.closers) - 1; i >= 0; i-- {
			s.closers[i]()
		}
	}()
	timeout := time.NewTimer(stopTimeout)
	defer timeout.Stop()
	select {
	case <-done:
		return nil
	case <-timeout.C:
		return config.Errorf(config.ExitFailed, "", "the end took longer than %v and was cut short", stopTimeout)
	}
}
