// Package rtphc compresses the headers of RTP packets (RFC 3550 section 5.1), per
// stream and direction, so that a lost packet never costs a second one.
//
// # Method
//
// RTP headers of one stream lie on a line: from one packet to the next the
// sequence number grows by one, the timestamp by a constant stride, and
// everything else stays (RFC 2508 section 3). Like RFC 2508 this package sends
// nothing of a header that is on its line. Unlike RFC 2508, which sends the
// difference to the packet before, and like the LSB encoding of RFC 5795 (ROHC)
// and RFC 6846 section 4, a record says where on the line its packet is, so that
// it can be read without any other. As in RFC 3545 and in ROHC's reliable mode
// nothing refers to a line before the receiver has acknowledged it. As RFC 4170
// does for trunks, several streams share one datagram; a context id tells them
// apart.
//
// What goes along the line is not RTP's sequence number but the number of the
// packet in its stream, which the tunnel counts itself, one per packet. So the
// same field puts streams in order that were not so when they came, and streams
// that are not RTP.
//
// # Slots
//
// The receiver keeps two lines for a context, in slots 0 and 1. One is active at
// the sender: all records refer to it. An anchor is a record that can be read by
// itself or over the active slot, and whose header the receiver puts into the
// other slot. The sender repeats it, on the same line, until one is acknowledged;
// then the other slot is the active one. It does so when the stream leaves its
// line for good (a new source, a pause, another stride or length) and every few
// dozen packets to keep the numbers near.
//
// # Why nothing is misread
//
// A record names context and slot. It is read with the line that the sender meant
// because
//
//  1. the sender uses a slot only after an acknowledgement for it. That names the
//     number of the anchor, and numbers are not used twice in a context (modulo
//     2^16; acknowledgements are taken only from datagrams newer than all before,
//     so none can be that old). So when a record is sent, the receiver has had an
//     anchor of its line for its slot.
//  2. the sender puts no other line into a slot while it is active. So every anchor
//     for another line of the slot is in a datagram sent before the first of this
//     line or after the last record that uses it.
//  3. the receiver keeps with a slot the counter of the datagram that its anchor
//     came in, takes an anchor only from a newer one, and reads a record only from
//     a datagram that is not older. Counters are authenticated and tell the order
//     of sending. So the line in the slot is not older than the record's, and by 2
//     not newer.
//  4. anchors of one line differ in their place on it only. The sender remembers the
//     first and the last, and uses the 7 bit form only where the number is read
//     alike from each place between them: not more than 16 before the last one, not
//     more than 111 behind the first one. In all other forms the number has 16 bits,
//     and the sender stays within 2^14 of the anchors.
//
// No assumption about loss, delay, order or duplicates is in this. A record that
// cannot be read by 3 is dropped; that can only be one that was overtaken by a
// datagram at least 16 packets of its stream newer, since a slot rests that long
// before it gets another line. Loss alone never makes one unreadable: that is 1.
//
// # What is compressed
//
// Any packet that begins with version 2 and is long enough; what follows the first
// 12 bytes (CSRC, extensions, SRTP's encrypted payload and tag) is payload.
// Packets of which 12 bytes cannot be told in fewer go whole: RTCP, STUN, DTLS,
// UDPTL. All come out as they went in, byte for byte.
//
// The package knows bytes only; nothing in it is safe for concurrent use.
package rtphc
