package config

import (
	"fmt"
	"time"
)

// MaxMediaWait bounds MediaWait: more is heard as delay.
const MaxMediaWait = 20 * time.Millisecond

// MediaWait is how long a packet of media waits for others to share a datagram. Auto waits for longer while the path is
// short of bandwidth.
type MediaWait struct {
	Wait time.Duration
	Auto bool
}

// defaultMediaWait is Wait with Auto.
const defaultMediaWait = 2 * time.Millisecond

// UnmarshalText takes a duration of up to MaxMediaWait, or auto.
func (w *MediaWait) UnmarshalText(text []byte) error {
	if string(text) == "auto" {
		*w = MediaWait{Wait: defaultMediaWait, Auto: true}
		return nil
	}
	d, err := time.ParseDuration(string(text))
	if err != nil || d < 0 || d > MaxMediaWait {
		return fmt.Errorf("%q is neither auto nor a time of 0 to %v, like 2ms", text, MaxMediaWait)
	}
	*w = MediaWait{Wait: d}
	return nil
}

// String gives what UnmarshalText takes.
func (w MediaWait) String() string {
	if w.Auto {
		return "auto"
	}
	return w.Wait.String()
}

// MediaTransport says how media crosses the tunnel.
type MediaTransport string

// Media goes as datagrams, over UDP, whenever that works, or over the TCP connection only.
const (
	MediaAuto MediaTransport = "auto"
	MediaTCP  MediaTransport = "tcp"
)

// UnmarshalText takes one of the two.
func (t *MediaTransport) UnmarshalText(text []byte) error {
	switch v := MediaTransport(text); v {
	case MediaAuto, MediaTCP:
		*t = v
		return nil
	}
	return fmt.Errorf("%q is neither %s nor %s", text, MediaAuto, MediaTCP)
}
