package config

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Endpoint is a host, by name or address, with a port. Host may be empty only where the flag allows an address to
// listen on; Port 0 means that none was written. The zero value is "not given".
type Endpoint struct {
	Host string
	Port uint16
}

// UnmarshalText takes host, host:port, :port, IPv6 addresses with or without brackets (with, when a port follows).
func (e *Endpoint) UnmarshalText(text []byte) error {
	s := string(text)
	if s == "" {
		*e = Endpoint{}
		return nil
	}
	if addr, err := netip.ParseAddr(s); err == nil {
		*e = Endpoint{Host: addr.String()}
		return nil
	}
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		s += ":0"
	} else if !strings.Contains(s, ":") {
		s += ":0"
	} else if strings.HasSuffix(s, ":0") {
		return fmt.Errorf("%q has port 0; a port is 1 to 65535", text)
	}
	host, portText, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf("%q is not host:port", text)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return fmt.Errorf("%q has no valid port; a port is 1 to 65535", text)
	}
	if host != "" {
		if err := validHost(host); err != nil {
			return fmt.Errorf("%q: %w", text, err)
		}
	}
	*e = Endpoint{Host: host, Port: uint16(port)}
	return nil
}

// validHost accepts an address, or a name of letters, digits, dots, hyphens and underscores. A number alone is refused:
// it is a port whose colon was forgotten far more often than it is a host.
func validHost(host string) error {
	if _, err := netip.ParseAddr(host); err == nil {
		return nil
	}
	if len(host) > 253 {
		return fmt.Errorf("the host name is longer than 253 bytes")
	}
	if _, err := strconv.Atoi(host); err == nil {
		return fmt.Errorf("%s is a number; a port is written :%s", host, host)
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(host, "."), ".") {
		if label == "" || len(label) > 63 || strings.HasPrefix(label, "-") || strings.HasSuffix(label, "-") {
			return fmt.Errorf("%s is neither an address nor a host name", host)
		}
		if strings.Trim(label, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" {
			return fmt.Errorf("%s is neither an address nor a host name", host)
		}
	}
	return nil
}

// IsZero reports whether nothing was given.
func (e Endpoint) IsZero() bool { return e == Endpoint{} }

// WithPort gives the endpoint with port where it has none of its own.
func (e Endpoint) WithPort(port uint16) Endpoint {
	if e.Port == 0 {
		e.Port = port
	}
	return e
}

// String gives host:port with brackets where they belong, or the host alone when there is no port.
func (e Endpoint) String() string {
	if e.Port == 0 {
		return e.Host
	}
	return net.JoinHostPort(e.Host, strconv.Itoa(int(e.Port)))
}

// Addr gives the host as an address, if it is one and not a name.
func (e Endpoint) Addr() (netip.Addr, bool) {
	addr, err := netip.ParseAddr(e.Host)
	return addr.Unmap(), err == nil
}

// IsWildcard reports whether a listener on this endpoint takes every address of the machine.
func (e Endpoint) IsWildcard() bool {
	addr, ok := e.Addr()
	return e.Host == "" || ok && addr.IsUnspecified()
}

// PortRange is an inclusive range of ports, 1024 <= Low <= High <= 65535. The zero value is not valid.
type PortRange struct {
	Low, High uint16
}

// UnmarshalText takes LOW-HIGH.
func (r *PortRange) UnmarshalText(text []byte) error {
	low, high, found := strings.Cut(string(text), "-")
	lo, errLow := strconv.ParseUint(strings.TrimSpace(low), 10, 16)
	hi, errHigh := strconv.ParseUint(strings.TrimSpace(high), 10, 16)
	switch {
	case !found || errLow != nil || errHigh != nil:
		return fmt.Errorf("%q is not a range of ports like 50000-59999", text)
	case lo > hi:
		return fmt.Errorf("%q: the first port is above the last", text)
	case lo < 1024:
		return fmt.Errorf("%q: ports below 1024 belong to the system", text)
	}
	*r = PortRange{Low: uint16(lo), High: uint16(hi)}
	return nil
}

// String gives LOW-HIGH.
func (r PortRange) String() string { return fmt.Sprintf("%d-%d", r.Low, r.High) }

// Len is the number of ports.
func (r PortRange) Len() int { return int(r.High) - int(r.Low) + 1 }

// Pairs is the number of even/odd pairs.
func (r PortRange) Pairs() int { return max(0, ((int(r.High)+1)/2*2-(int(r.Low)+1)/2*2)/2) }

// Contains reports whether port is in the range.
func (r PortRange) Contains(port uint16) bool { return r.Low <= port && port <= r.High }

// Overlaps reports whether a port is in both ranges.
func (r PortRange) Overlaps(other PortRange) bool { return r.Low <= other.High && other.Low <= r.High }

// Address is an IP address of this machine that others are told; the zero value is "find it".
type Address struct{ netip.Addr }

// UnmarshalText takes an IPv4 or IPv6 address that can be told to others: no name, no wildcard, no multicast.
func (a *Address) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*a = Address{}
		return nil
	}
	addr, err := netip.ParseAddr(string(text))
	if err != nil {
		return fmt.Errorf("%q is not an IP address", text)
	}
	addr = addr.Unmap()
	if addr.IsUnspecified() || addr.IsMulticast() || addr.Zone() != "" {
		return fmt.Errorf("%q is not an address that others can send to", text)
	}
	a.Addr = addr
	return nil
}

// Network is an IP network in CIDR form, or a single address.
type Network struct{ netip.Prefix }

// UnmarshalText takes 192.0.2.0/24, 2001:db8::/32 or a single address.
func (n *Network) UnmarshalText(text []byte) error {
	s := string(text)
	if addr, err := netip.ParseAddr(s); err == nil {
		n.Prefix = netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen())
		return nil
	}
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		return fmt.Errorf("%q is not a network like 192.0.2.0/24", text)
	}
	n.Prefix = prefix.Masked()
	return nil
}

// Domain is a SIP domain: a host name or address without a port. The zero value is "not given".
type Domain string

// UnmarshalText takes a host name or an address.
func (d *Domain) UnmarshalText(text []byte) error {
	if len(text) > 0 {
		if err := validHost(string(text)); err != nil {
			return err
		}
	}
	*d = Domain(text)
	return nil
}
