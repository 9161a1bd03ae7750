// Package bundle puts the media packets of a session into datagrams and takes them
// out again. It joins wire's records, rtphc's header compression and redundancy's
// copies: a Packer is the sending half of a session's media path, an Unpacker the
// receiving half.
//
//	Packer                                        Unpacker
//	Begin, Add ..., End -> seal -> UDP -> open -> Unpack -> Receiver.Packet
//	Answer <------------- acks to send ---------- Receiver.Answer
//	Feedback <----------- acks that came -------- Receiver.Feedback
//
// Datagrams must be sealed in the order in which they were begun: counters tell
// the receiver the order of what is in them. They may then be dropped, delayed,
// repeated or come in any order. What comes out of an Unpacker is, stream by
// stream, packets that were put into the Packer, byte for byte, none twice and
// none out of order.
//
// Times are nanoseconds of one monotonic clock of the caller's. Nothing here is
// safe for concurrent use; a Packer and an Unpacker share nothing.
package bundle
