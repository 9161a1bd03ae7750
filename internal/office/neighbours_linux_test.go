package office

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

func TestNeighbour(t *testing.T) {
	head := []byte{unix.AF_INET, 0, 0, 0, 2, 0, 0, 0, unix.NUD_REACHABLE, 0, 0, 0}
	dst := []byte{8, 0, unix.NDA_DST, 0, 192, 0, 2, 7}
	link := []byte{10, 0, unix.NDA_LLADDR, 0, 2, 0, 0, 0, 0, 1, 0, 0}
	other := []byte{5, 0, 4, 0, 1, 0, 0, 0}
	join := func(parts ...[]byte) (b []byte) {
		for _, p := range parts {
			b = append(b, p...)
		}
		return b
	}
	for name, b := range map[string][]byte{"": join(head, other, dst, link), "unpadded": join(head, dst, link[:10])} {
		if addr, got, ok := neighbour(b); !ok || addr != netip.MustParseAddr("192.0.2.7") || got != "02:00:00:00:00:01" {
			t.Errorf("%s: %v %v %v", name, addr, got, ok)
		}
	}
	failed := append([]byte(nil), head...)
	failed[8] = unix.NUD_FAILED
	for name, b := range map[string][]byte{
		"failed": join(failed, dst, link), "no address": join(head, link), "no link": join(head, dst), "cut": head[:8],
		"long attribute": join(head, []byte{200, 0, unix.NDA_DST, 0}), "short attribute": join(head, []byte{1, 0, 1, 0}, dst),
	} {
		if addr, link, ok := neighbour(b); ok {
			t.Errorf("%s: %v %v", name, addr, link)
		}
	}
	for n := range len(head) + len(dst) + len(link) {
		neighbour(join(head, dst, link)[:n])
	}
	_ = neighbourTable() // whatever this machine has
}
