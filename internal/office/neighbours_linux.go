package office

import (
	"encoding/binary"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// neighbourTable asks the kernel for its ARP and neighbour discovery caches:
// rtnetlink(7), RTM_GETNEIGH. It is nil where that cannot be had.
func neighbourTable() map[netip.Addr]string {
	answer, err := syscall.NetlinkRIB(unix.RTM_GETNEIGH, unix.AF_UNSPEC)
	if err != nil {
		return nil
	}
	messages, err := syscall.ParseNetlinkMessage(answer)
	if err != nil {
		return nil
	}
	table := make(map[netip.Addr]string, len(messages))
	for _, m := range messages {
		if addr, link, ok := neighbour(m.Data); ok && m.Header.Type == unix.RTM_NEWNEIGH {
			table[addr] = link
		}
	}
	return table
}

// neighbour reads a struct ndmsg and its attributes.
func neighbour(b []byte) (addr netip.Addr, link string, ok bool) {
	const stateAt, headerLength = 8, unix.SizeofNdMsg
	if len(b) < headerLength {
		return addr, "", false
	}
	state := binary.NativeEndian.Uint16(b[stateAt:])
	if state&(unix.NUD_INCOMPLETE|unix.NUD_FAILED|unix.NUD_NOARP) != 0 {
		return addr, "", false
	}
	for b = b[headerLength:]; len(b) >= unix.SizeofRtAttr; {
		length, kind := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])
		if length < unix.SizeofRtAttr || length > len(b) {
			break
		}
		value := b[unix.SizeofRtAttr:length]
		switch kind {
		case unix.NDA_DST:
			addr, _ = netip.AddrFromSlice(value)
		case unix.NDA_LLADDR:
			link = net.HardwareAddr(value).String()
		}
		b = b[min((length+3)&^3, len(b)):]
	}
	return addr, link, addr.IsValid() && link != ""
}
