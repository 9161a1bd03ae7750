// Package relay carries the media of calls between UDP peers and the tunnel.
//
// A Relay owns one pair of UDP ports, an even one for RTP and the odd one above
// it for RTCP (RFC 3550 section 11). What comes in from its peer, a phone or
// the PBX, goes to a Sink; what is handed to Send goes out to the peer. Ports
// gives out the pairs of a range. Nothing here knows SIP or the tunnel.
//
// # Whom a relay listens to
//
// The ports of a relay can be reached by more than its peer, and whoever could
// make a relay believe that he is the peer would hear the call ("RTP bleed").
// So a relay never follows whoever sends first:
//
//   - SDP signals an address (SetRemote). Before that, and after SDP has taken
//     it away, nothing is taken in and nothing goes out.
//   - The policy (Config.Accept) says which sources can be the owner of that
//     address at all: LANPolicy toward phones, PBXPolicy toward the PBX.
//   - The first packet from such a source latches the relay: from now on this
//     address and port alone is heard and sent to (symmetric RTP, RFC 4961).
//   - The latch opens again when SDP signals another address, or after
//     RelatchAfter of silence of the latched source. In the meantime it moves
//     to one place only: the very address that was signalled, once that is
//     heard itself.
//
// RTCP latches apart from RTP. Everything else is dropped in silence and counted
// by its reason.
//
// # What a relay carries
//
// Every packet of 1 to MaxPacket bytes: not only RTP but also T.38, STUN and
// DTLS share these ports (RFC 7983), and SRTP looks like RTP. Nothing is parsed
// but for the statistics, nothing is changed, nothing is kept back: a packet
// that the kernel cannot take at once is dropped, since late media is lost
// media and one peer that does not answer must not hold up the others. The
// path of a packet allocates nothing.
//
// # What a relay knows
//
// Stats.Quality tells where on their way packets of RTP were lost. RTCP that the peer
// sends is read in passing, and the other end of the tunnel is asked for what it has
// measured, with packets among the RTCP of the channel that no peer gets to see. What
// RTCP says counts only if its sender was admitted and it names a stream, and a packet
// of it, that was sent to that peer: what is encrypted does not. It can make figures
// wrong that are about its sender's own call, and nothing else.
package relay
