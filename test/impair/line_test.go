package impair

import (
	"encoding/binary"
	"slices"
	"testing"
	"time"
)

const tcp = 6

// packet is an IPv4 packet with a number in it.
func packet(protocol byte, n int) []byte {
	b := make([]byte, 24)
	b[0], b[9] = 0x45, protocol
	binary.BigEndian.PutUint32(b[20:], uint32(n))
	return b
}

// arrival is a packet that came out of a line.
type arrival struct {
	n  int
	at time.Duration
}

// run sends a packet each millisecond and returns what came out.
func run(l *line, packets int, protocol byte, conditions func(n int) Conditions) (came []arrival) {
	for n := 0; n < packets+1000; n++ {
		now := time.Duration(n) * time.Millisecond
		c := conditions(n)
		if n < packets {
			l.take(now, packet(protocol, n), c)
		}
		for p := l.arrived(now, c); p != nil; p = l.arrived(now, c) {
			came = append(came, arrival{int(binary.BigEndian.Uint32(p[20:])), now})
		}
	}
	return came
}

func always(c Conditions) func(int) Conditions { return func(int) Conditions { return c } }

func TestLoss(t *testing.T) {
	const packets = 20_000
	one := run(newLine(1, 0), packets, tcp, always(Conditions{Loss: 0.05}))
	if lost := packets - len(one); lost < packets*4/100 || lost > packets*6/100 {
		t.Errorf("%d of %d lost, want 5 %%", lost, packets)
	}
	if again := run(newLine(1, 0), packets, tcp, always(Conditions{Loss: 0.05})); !slices.Equal(one, again) {
		t.Error("the same seed loses other packets")
	}
	if other := run(newLine(1, 1), packets, tcp, always(Conditions{Loss: 0.05})); slices.Equal(one, other) {
		t.Error("both directions lose the same packets")
	}
	// What happens to a packet does not depend on what else the path does.
	for i, a := range run(newLine(1, 0), packets, tcp, always(Conditions{Loss: 0.05, Delay: time.Second / 2})) {
		if a.n != one[i].n || a.at != one[i].at+time.Second/2 {
			t.Fatalf("%+v, without delay %+v", a, one[i])
		}
	}
}

func TestBursts(t *testing.T) {
	const packets, between = 20_000, 50
	came := run(newLine(2, 0), packets, udp, always(Conditions{Bursts: between}))
	bursts, last := 0, -1
	for _, a := range came {
		if missing := a.n - last - 1; missing == 2 {
			bursts++
		} else if missing != 0 {
			t.Fatalf("%d are missing before %d", missing, a.n)
		}
		last = a.n
	}
	if bursts < packets/(2*between+2) || bursts > packets/between {
		t.Errorf("%d bursts", bursts)
	}
	if came := run(newLine(2, 0), 1000, tcp, always(Conditions{Bursts: between})); len(came) != 1000 {
		t.Errorf("%d of 1000 TCP packets came", len(came))
	}
}

func TestJitter(t *testing.T) {
	for _, overtake := range []bool{false, true} {
		came := run(newLine(3, 0), 1000, udp, always(Conditions{Delay: 20 * time.Millisecond, Jitter: 50 * time.Millisecond, Overtake: overtake}))
		if len(came) != 1000 {
			t.Fatalf("%d of 1000 came", len(came))
		}
		disordered, longest := 0, time.Duration(0)
		for i, a := range came {
			took := a.at - time.Duration(a.n)*time.Millisecond
			if took < 20*time.Millisecond || took > 71*time.Millisecond {
				t.Fatalf("packet %d took %v", a.n, took)
			}
			longest = max(longest, took)
			if i > 0 && a.n < came[i-1].n {
				disordered++
			}
		}
		if overtake != (disordered > 100) || !overtake && disordered > 0 || longest < 60*time.Millisecond {
			t.Errorf("overtake %v: %d out of order, up to %v", overtake, disordered, longest)
		}
	}
}

func TestHeldBack(t *testing.T) {
	hold := func(n int) Conditions { return Conditions{HoldUDP: n >= 100 && n < 400} }
	for n, a := range run(newLine(4, 0), 1000, udp, hold) {
		want := time.Duration(n) * time.Millisecond
		if n >= 100 && n < 400 {
			want = 400 * time.Millisecond
		}
		if a.n != n || a.at != want {
			t.Fatalf("packet %d came as %dth at %v", a.n, n, a.at)
		}
	}
	if came := run(newLine(4, 0), 500, tcp, hold); came[450].at != 450*time.Millisecond {
		t.Error("TCP was held back too")
	}
	if came := run(newLine(4, 0), 500, udp, always(Conditions{NoUDP: true})); len(came) != 0 {
		t.Errorf("%d UDP packets came", len(came))
	}
}

func TestNext(t *testing.T) {
	l := newLine(5, 0)
	if d := l.next(0, time.Second); d != time.Second {
		t.Errorf("nothing is on its way, and is there in %v", d)
	}
	l.take(0, packet(udp, 1), Conditions{Delay: 30 * time.Millisecond})
	for now, want := range map[time.Duration]time.Duration{0: 20 * time.Millisecond, 25 * time.Millisecond: 5 * time.Millisecond, time.Second: 0} {
		if d := l.next(now, 20*time.Millisecond); d != want {
			t.Errorf("at %v it is there in %v, want %v", now, d, want)
		}
	}
}

func TestProtocol(t *testing.T) {
	six := make([]byte, 40)
	six[0], six[6] = 0x60, udp
	for _, c := range []struct {
		b    []byte
		want byte
	}{{packet(udp, 1), udp}, {packet(tcp, 1), tcp}, {six, udp}, {six[:39], 0}, {packet(udp, 1)[:19], 0}, {nil, 0}} {
		if got := protocol(c.b); got != c.want {
			t.Errorf("% x: protocol %d, want %d", c.b, got, c.want)
		}
	}
}
