package sdp

// otherTransports are what the protos of m= lines begin with whose media do not
// go over UDP: TCP/MSRP, TCP/TLS/BFCP, tcptl (T.38), DCCP/RTP/AVP and their like.
var otherTransports = [...]string{"tcp", "sctp", "dccp", "tls"}

// OverUDP reports whether the media goes over UDP. A proto that is not known is
// taken to.
func (m *Media) OverUDP() bool {
	for _, t := range otherTransports {
		if len(m.Proto) >= len(t) && isWord(m.Proto[:len(t)], t) {
			return false
		}
	}
	return true
}
