package relay

import "time"

// PollerConfig says how a Poller works. Both functions are called by its
// goroutine and may be nil.
type PollerConfig struct {
	// Wait says how long a packet that comes may wait for others, so that they
	// are read, and sent on, together. Nil, or zero: not at all.
	Wait func() time.Duration

	// Flush is called each time that Sinks were given what there was: a Sink
	// that only collects sends then. It must not block.
	Flush func()
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
