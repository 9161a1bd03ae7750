package relay

import (
	"time"

	"github.com/siptunnel/siptunnel/internal/counter"
)

// PollerConfig says how a Poller works. Both functions are called by its
// goroutine and may be nil.
type PollerConfig struct {
	// Wait says how long a packet that comes may wait for others, so that they
	// are read, and sent on, together. Nil, or zero: not at all.
	Wait func() time.Duration

	// Flush is called each time that Sinks were given what there was: a Sink
	// that only collects sends then. It must not block.
	Flush func()

	// Counters counts what the Relays drop, as media.dropped.REASON. It may be nil.
	Counters *counter.Set
}

func (c *PollerConfig) wait() time.Duration {
	if c.Wait == nil {
		return 0
	}
	return c.Wait()
}

func (c *PollerConfig) flush() {
	if c.Flush != nil {
		c.Flush()
	}
}

// common is what the Relays of a Poller have together.
type common struct {
	began   time.Time
	now     func() time.Duration       // since began
	dropped [verdicts]*counter.Counter // none for pass
	report  [reportSize]byte           // that is being sent; guarded by mu of the Poller
}

func newCommon(counters *counter.Set) common {
	began := time.Now()
	c := common{began: began, now: func() time.Duration { return time.Since(began) }}
	for v := pass + 1; v < verdicts; v++ {
		c.dropped[v] = counters.Counter(counterNames[v])
	}
	return c
}
