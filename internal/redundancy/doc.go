// Package redundancy hides the loss of datagrams from streams: at the sender each
// packet is carried once more in a later datagram, at the receiver the streams
// are put in order again. It is RFC 2198's idea, one level below: RFC 2198 puts
// the payload of earlier packets into later packets of the same stream and needs a
// phone and a codec that know it; here the tunnel repeats whole packets of any
// stream, SRTP and DTLS too, and takes the copies out again.
//
// # Why not parity
//
// RFC 5109 and RFC 8627 protect a group of packets with one parity packet. That is
// cheaper (one packet in k instead of one in one), but what is lost can only be
// told when the whole group has come: with k = 5 and one packet every 20 ms up to
// 100 ms late, where a copy is 20 to 60 ms late. And parity of one dimension mends
// one loss in a group: of 10 % lost packets it leaves 4 % with k = 5, and none of
// two in a row are mended; interleaving and a second dimension mend these and
// cost as much as copies and more delay. A copy leaves p^2: 0.25 % of 5 %, 1 % of
// 10 %; where that is too much, second copies of some packets mend it.
//
// # What is bounded
//
// A packet is sent again once, some of them twice when loss is high, never more;
// what waits to be sent again is bounded in bytes and packets. Loss that comes from
// congestion gets worse by it, so that what does not help is ended: see Policy.
//
// Times are nanoseconds of one monotonic clock of the caller's. Nothing in the
// package is safe for concurrent use.
package redundancy

const (
	microsecond = 1000
	millisecond = 1000 * microsecond
	second      = 1000 * millisecond
)
