// Package sipfwd is the tunnel's SIP proxy: one logical, stateful,
// non-forking proxy that is split in two by the tunnel.
//
// [LANSide] runs in tunnelproxy and faces the phones of an office, [PBXSide]
// runs in tunneld, once per tunnel session, and faces the PBX. Between them
// messages travel complete, in order and exactly once, so neither half runs
// transactions toward the tunnel: each is the server transaction for the
// requests of its own SIP peer and the client transaction for the requests
// that come out of the tunnel (RFC 3261 section 16.7 and 17).
//
// # What is changed
//
// A message is forwarded as the bytes that were received plus edits. Each half
// edits only what it has to answer for: LANSide the phone's Via parameters, its
// own Route and Record-Route entries and the addresses in SDP; PBXSide its own
// Via, Max-Forwards, and the Contact, which it replaces with the phone's own
// port on the PBX side so that the PBX sees every phone as a directly reachable
// user agent. Call-ID, tags, CSeq, From, To and everything about authentication
// pass untouched.
//
// # Threat model
//
// PBXSide trusts neither the client nor the network beside the PBX: requests
// from the tunnel go to the configured PBX and nowhere else, SDP from the
// tunnel may name only relays of the same session, and a phone's port takes
// SIP only from the PBX. LANSide serves only sources of the office network.
// What is refused is answered with the right response code or with silence, and
// counted by reason.
//
// # Order and ownership
//
// All state of a phone is owned by one struct under one lock; messages of one
// phone are handled in the order in which they arrive, never by a goroutine
// per message, so that an ACK cannot overtake its INVITE.
package sipfwd
