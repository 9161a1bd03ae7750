package sipfwd

import (
	"bytes"
	"net/netip"

	"github.com/siptunnel/siptunnel/internal/sdp"
	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

// refusal is why a request is not forwarded, as its response says it.
type refusal struct {
	status  int
	reason  string
	counter string
	headers []string
}

var (
	tooManyCalls    = &refusal{503, "Too Many Calls", "sip.refused.too_many_dialogs", []string{"Retry-After", "10"}}
	tooManyHops     = &refusal{483, "Too Many Hops", "sip.refused.too_many_hops", nil}
	noRoomLeft      = &refusal{503, "Service Unavailable", "sip.refused.too_many_transactions", []string{"Retry-After", "10"}}
	tooLarge        = &refusal{513, "Message Too Large", "sip.refused.too_large", nil}
	tooLargeForUDP  = &refusal{513, "Message Too Large", "sip.refused.too_large_for_udp", nil}
	requestTimeout  = &refusal{408, "Request Timeout", "", nil}
	pbxUnreachable  = &refusal{503, "PBX Unreachable", "sip.refused.pbx_unreachable", []string{"Retry-After", "10"}}
	trunkAway       = &refusal{503, "Trunk Unreachable", "sip.refused.trunk_unreachable", []string{"Retry-After", "10"}}
	notConnected    = &refusal{480, "Phone Not Connected", "sip.refused.flow_gone", nil}
	terminated      = &refusal{487, "Request Terminated", "", nil}
	noMediaPort     = &refusal{503, "No Media Port", "sip.refused.no_media_port", []string{"Retry-After", "5"}}
	unknownScheme   = &refusal{416, "Unsupported URI Scheme", "sip.refused.unknown_scheme", nil}
	badContact      = &refusal{400, "Malformed Contact", "sip.refused.malformed_contact", nil}
	tooComplex      = &refusal{513, "Message Too Complex", "sip.refused.too_complex", nil}
	tooManyContacts = &refusal{513, "Too Many Contacts", "sip.refused.too_many_contacts", nil}
	longHeader      = &refusal{400, "Header Too Long", "sip.refused.long_header", nil}
	noSuchCall      = &refusal{481, "Call Does Not Exist", "sip.refused.no_such_call", nil}
	noSuchInvite    = &refusal{481, "Call/Transaction Does Not Exist", "sip.refused.no_such_invite", nil}
	malformedSDP    = &refusal{488, "Malformed SDP", "sip.refused.malformed_sdp", nil}
	severalSDP      = &refusal{488, "More Than One SDP", "sip.refused.several_sdp", nil}
	encodedBody     = &refusal{415, "Encoded Body", "sip.refused.encoded_body", []string{"Accept-Encoding", "identity"}}
	foreignMedia    = &refusal{488, "Not Acceptable Here", "sip.refused.foreign_media_address",
		[]string{"Warning", `399 tunneld "SDP names an address that is not a relay of this session"`}}
)

// sessionBody is the session description in a message, used again for each.
type sessionBody struct {
	sdp.Description
	start, end int // in the message's body
}

// find parses the session description in m. Only the methods of the offer and
// answer exchange are looked at (RFC 6337 section 2): in the answer to an
// OPTIONS, for instance, SDP describes what a phone can do and moves no media.
//
// What cannot be read could not be rewritten or checked, and a receiver may
// take any of several descriptions, so both are refused.
func (b *sessionBody) find(m *sipmsg.Message) (has bool, no *refusal) {
	switch string(m.Method()) {
	case "INVITE", "ACK", "PRACK", "UPDATE":
	default:
		return false, nil
	}
	body, contentType := m.Body(), m.ContentType()
	if len(body) == 0 {
		return false, nil
	}
	if encoded(m) && mayHoldSDP(contentType) {
		return false, encodedBody
	}
	for start, end := range sdp.All(contentType, body) {
		if has {
			return true, severalSDP
		}
		has, b.start, b.end = true, start, end
	}
	if has && b.Parse(body[b.start:b.end]) != nil {
		return true, malformedSDP
	}
	return has, nil
}

func encoded(m *sipmsg.Message) bool {
	for it := m.Values(sipmsg.ContentEncoding); it.Next(); {
		if !bytes.EqualFold(it.Bytes(), []byte("identity")) {
			return true
		}
	}
	return false
}

func mayHoldSDP(contentType []byte) bool {
	kind, _, _ := bytes.Cut(bytes.ToLower(contentType), []byte("/"))
	return len(contentType) == 0 || string(bytes.TrimSpace(kind)) == "multipart" || bytes.Contains(bytes.ToLower(contentType), []byte("sdp"))
}

// namedRelay is the relay of this session that m, a media line of a phone,
// names, nil when it is on hold. It reports false for a line that names
// anything else: nobody may use the tunnel to send a PBX's media to a third
// address, be it as the address itself, as that of RTCP, as one of several, or
// over another transport than relays have.
func namedRelay(m *sdp.Media, find func(netip.AddrPort) (Relay, bool)) (Relay, bool) {
	if m.Alternatives || m.PortCount != 1 || !m.OverUDP() {
		return nil, false
	}
	rtp, rtcp := m.RTPAddr(), m.RTCP
	if rtcp.Addr().IsValid() && rtcp.Addr().IsUnspecified() {
		rtcp = netip.AddrPort{} // nobody sends there
	}
	if rtp.IsValid() && rtp.Addr().IsUnspecified() { // hold, RFC 2543 style
		if rtcp.Port() == 0 {
			return nil, true
		}
		_, ok := find(netip.AddrPortFrom(rtcp.Addr(), rtcp.Port()-1))
		return nil, ok
	}
	relay, ok := find(rtp)
	if !ok || rtcp.Port() != 0 && (rtcp.Addr() != rtp.Addr() || rtcp.Port() != rtp.Port() && rtcp.Port() != rtp.Port()+1) {
		return nil, false
	}
	return relay, true
}
