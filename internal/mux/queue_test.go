package mux

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/siptunnel/siptunnel/internal/counter"
	"github.com/siptunnel/siptunnel/internal/wire"
)

func TestMediaQueueDropsTheOldest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		counters := new(counter.Set)
		q := newMediaQueue(counters)
		q.push(1, false, []byte("nobody listens"))
		q.start()
		for i := range mediaSlots + 10 {
			q.push(1, false, fmt.Append(nil, i))
		}
		want := 10
		for q.take(func(_ uint32, _ bool, packet []byte) {
			if string(packet) != fmt.Sprint(want) {
				t.Fatalf("got %s, want %d", packet, want)
			}
			want++
		}) > 0 {
		}
		if want != mediaSlots+10 {
			t.Errorf("the last one was %d", want-1)
		}
		q.push(1, false, []byte("late"))
		time.Sleep(mediaMaxAge / 2)
		q.push(2, true, []byte("in time"))
		time.Sleep(mediaMaxAge/2 + 1)
		n := q.take(func(channel uint32, rtcp bool, packet []byte) {
			if channel != 2 || !rtcp || string(packet) != "in time" {
				t.Errorf("got %d %t %s", channel, rtcp, packet)
			}
		})
		if n != 1 {
			t.Errorf("took %d", n)
		}
		q.push(1, false, nil)
		q.push(1, false, make([]byte, wire.MaxMedia+1))
		q.push(1, false, []byte("waits"))
		q.stop()
		for name, want := range map[string]uint64{
			"media.dropped.queue_full": 10, "media.dropped.late": 1,
			"media.dropped.tunnel_down": 2, "media.dropped.bad_length": 2,
		} {
			if got := counters.Snapshot()[name]; got != want {
				t.Errorf("%s: %d, want %d", name, got, want)
			}
		}
	})
}

func TestMediaQueueDoesNotAllocate(t *testing.T) {
	q := newMediaQueue(nil)
	q.start()
	packet := make([]byte, 172)
	for range mediaSlots {
		q.push(1, false, packet)
	}
	add := func(uint32, bool, []byte) {}
	if n := testing.AllocsPerRun(100, func() {
		q.push(1, false, packet)
		q.take(add)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestOutboxModel compares the outbox with a plain list over random
// operations.
func TestOutboxModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	o := newOutbox()
	var all []byte // frames are single bytes, so positions are counts
	acked, given := 0, 0
	for range 20000 {
		switch random.IntN(5) {
		case 0, 1:
			b := byte(random.Uint32())
			err := o.add([]byte{b})
			if full := len(all)-acked >= outboxFrames; (err != nil) != full {
				t.Fatalf("add: %v with %d waiting", err, len(all)-acked)
			}
			if err == nil {
				all = append(all, b)
			}
		case 2:
			out := o.take(nil)
			if string(out) != string(all[given:]) {
				t.Fatalf("took % x, want % x", out, all[given:])
			}
			given = len(all)
		case 3:
			n := acked + random.IntN(given-acked+1)
			if err := o.ack(uint64(n)); err != nil {
				t.Fatal(err)
			}
			acked = n
		case 4:
			if random.IntN(10) > 0 {
				continue
			}
			n := acked + random.IntN(len(all)-acked+1)
			if err := o.rewind(uint64(n)); err != nil {
				t.Fatal(err)
			}
			acked, given = n, n
		}
		for _, bad := range []int{acked - 1, given + 1} {
			if bad >= 0 && o.ack(uint64(bad)) == nil {
				t.Fatalf("ack of %d was taken, between %d and %d is right", bad, acked, given)
			}
		}
		if o.rewind(uint64(len(all)+1)) == nil {
			t.Fatal("rewind beyond the end was taken")
		}
	}
}

func TestOutboxBytes(t *testing.T) {
	o := newOutbox()
	for range outboxBytes / 65536 {
		if err := o.add(make([]byte, 65536)); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.add([]byte{1}); err != ErrOverflow {
		t.Errorf("add: %v", err)
	}
	o.rewind(1)
	if err := o.add([]byte{1}); err != nil {
		t.Errorf("add after ack: %v", err)
	}
	o.close(ErrSessionLost)
	if err := o.add([]byte{1}); err != ErrSessionLost {
		t.Errorf("add after close: %v", err)
	}
}
