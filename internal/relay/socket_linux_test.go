package relay

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestSocketsAreMarkedExpedited(t *testing.T) {
	for _, test := range []struct {
		addr          netip.Addr
		level, option int
	}{
		{loopback4, unix.IPPROTO_IP, unix.IP_TOS},
		{loopback6, unix.IPPROTO_IPV6, unix.IPV6_TCLASS},
	} {
		t.Run(test.addr.String(), func(t *testing.T) {
			if test.addr.Is6() {
				needIPv6(t)
			}
			pair, err := freePorts(t, test.addr, 2, time.Now).Open()
			if err != nil {
				t.Fatal(err)
			}
			defer pair.Close()
			for c, s := range pair.sockets {
				got, err := unix.GetsockoptInt(s.fd, test.level, test.option)
				if err != nil {
					t.Fatal(err)
				}
				if got>>2 != 46 {
					t.Errorf("DSCP of %v = %d, want 46", Component(c), got>>2)
				}
			}
		})
	}
}

// inNamespace says to this test binary that it runs in the network namespace of
// TestSendNeverWaits.
const inNamespace = "RELAY_TEST_IN_NAMESPACE"

// TestSendNeverWaits sends to a neighbour that does not exist:
//
//	10.99.0.1 relay ---- veth ---- nobody, 10.99.0.2
//
// The packets wait in the kernel, on the account of the socket, until ARP gives
// up after 3 s.
func TestSendNeverWaits(t *testing.T) {
	if os.Getenv(inNamespace) == "" {
		runInNamespace(t)
		return
	}
	for _, line := range []string{
		"link add v0 type veth peer name v1",
		"addr add 10.99.0.1/24 dev v0",
		"link set v0 up",
		"link set v1 up",
	} {
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v\n%s", line, err, out)
		}
	}
	ports, err := NewPorts(netip.MustParseAddr("10.99.0.1"), 40000, 40001)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ports.Open()
	if err != nil {
		t.Fatal(err)
	}
	r := startRelay(t, Config{Pair: pair})
	r.SetRemote(ap("10.99.0.2:4000"), netip.AddrPort{})

	const packets = 500
	began := time.Now()
	full := uint64(0)
	for range packets {
		switch err := r.Send(RTP, make([]byte, 172)); {
		case errors.Is(err, ErrQueueFull):
			full++
		case err != nil:
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("%d packets took %v", packets, took)
	}
	s := r.Stats()
	if full == 0 || s.Dropped.QueueFull != full || s.Out.Packets != packets-full {
		t.Errorf("%d packets found the queue full; stats = %+v", full, s)
	}
}

// runInNamespace runs the calling test in a child in a network namespace of its
// own.
func runInNamespace(t *testing.T) {
	t.Helper()
	skip := t.Skipf
	if os.Getenv("CI") == "true" {
		skip = t.Fatalf
	}
	if _, err := exec.LookPath("ip"); err != nil {
		skip("no ip command: %v", err)
	}
	child := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.count=1")
	child.Env = append(os.Environ(), inNamespace+"=1")
	child.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	var out strings.Builder
	child.Stdout, child.Stderr = &out, &out
	if err := child.Start(); err != nil {
		skip("no network namespace: %v", err)
	}
	if err := child.Wait(); err != nil {
		t.Errorf("in the namespace: %v\n%s", err, out.String())
	}
}
