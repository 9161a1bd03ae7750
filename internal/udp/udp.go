// Package udp is a UDP socket for datagrams that come and go in bursts.
//
// Where the system can do it, one call takes in and one call sends what a burst
// has: Linux joins datagrams of one source that follow each other (generic
// receive offload) and cuts one buffer into datagrams of equal length
// (segmentation offload). Elsewhere each datagram is a call, with the same
// behaviour.
//
// Nothing waits for room: media that cannot go now is late.
package udp

import (
	"errors"
	"iter"
	"net/netip"
	"slices"
)

// MaxDatagram is the longest datagram that is received whole, in bytes.
const MaxDatagram = 2048

// ErrQueueFull says that the system had no room for a datagram.
var ErrQueueFull = errors.New("the kernel's send queue is full, datagram dropped")

// A Route is a peer and the address of this host that it knows us by. A socket
// of all addresses must answer from the one that it was asked at. A zero Local
// leaves the choice to the system.
type Route struct {
	Remote netip.AddrPort
	Local  netip.Addr
}

// network is that of a socket as Class.Mark takes it: what a socket of both families
// sends over IPv4 is marked too.
func network(local netip.AddrPort) string {
	if local.Addr().Is4() {
		return "udp4"
	}
	return "udp6"
}

// Burst is datagrams that go to one peer together, kept in one buffer. The zero
// value is empty and ready for use; it is not safe for concurrent use.
type Burst struct {
	buf  []byte
	ends []int // of the datagrams in buf
}

// Room returns an empty slice with room for n bytes, into which the next datagram is
// written. It stays valid until the next Room.
func (b *Burst) Room(n int) []byte {
	b.buf = slices.Grow(b.buf, n)
	return b.buf[len(b.buf):len(b.buf):cap(b.buf)]
}

// Commit adds the first n bytes of what Room gave as a datagram.
func (b *Burst) Commit(n int) {
	if n > 0 {
		b.buf = b.buf[:len(b.buf)+n]
		b.ends = append(b.ends, len(b.buf))
	}
}

// Len returns the number of datagrams.
func (b *Burst) Len() int { return len(b.ends) }

// Bytes returns the length of all datagrams together.
func (b *Burst) Bytes() int { return len(b.buf) }

// All goes through the datagrams, which are valid until Reset.
func (b *Burst) All() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		begin := 0
		for _, end := range b.ends {
			if !yield(b.buf[begin:end:end]) {
				return
			}
			begin = end
		}
	}
}

// Reset empties b and keeps its memory.
func (b *Burst) Reset() { b.buf, b.ends = b.buf[:0], b.ends[:0] }

// run returns the datagrams from the i-th on that one call can send: of equal
// length, but for a shorter last one, limit at most, and where the run ends.
func (b *Burst) run(i, limit int) (data []byte, size, next int) {
	begin := 0
	if i > 0 {
		begin = b.ends[i-1]
	}
	size = b.ends[i] - begin
	for next = i + 1; next < len(b.ends) && next-i < limit; next++ {
		length := b.ends[next] - b.ends[next-1]
		if length > size || b.ends[next]-begin > maxRun {
			break
		}
		if length < size {
			next++
			break
		}
	}
	return b.buf[begin:b.ends[next-1]], size, next
}

// maxRun is how many bytes one call sends: IP's limit, less the headers.
const maxRun = 65000
