// Package mux carries sessions over connections: TCP, TLS 1.3, mutual
// authentication from the tunnel password, and yamux, with signalling that is
// delivered exactly once and in order whatever happens to connections, and
// media that is dropped rather than late. PROTOCOL.md is the specification.
// The package knows no SIP and no RTP: both are bytes with a number.
//
// # Parts
//
//   - [Server] and [Session] are tunneld's end, [Client] and [ClientSession]
//     that of package tunnel. What they have in common is an endpoint, which a
//     session keeps, and a link, which is a connection that carries a session.
//   - outbox keeps the counted frames of one direction until the peer has
//     acknowledged them; mediaQueue keeps packets until the connection takes
//     them or they are late.
//   - coalescer makes one TLS record of what yamux writes in pieces, and
//     watches for floods of frames that yamux itself does not bound. rawConn is
//     the TCP connection, with the limits before authentication.
//
// # Threat model
//
// Before authentication a peer gets five seconds and four kilobytes. After it,
// a client may still be stolen: what it can make the server keep, and for how
// long, is bounded everywhere, a client that breaks the protocol loses its
// session, and no client can make another one wait.
//
// # Who owns which goroutine
//
//	Server.Serve    the accept loop; returns at Close
//	  admit         one per connection, for its whole life: authenticates it,
//	                attaches it to its session and runs the link
//	  supervise     one per session: waits for its end, tells the handler
//	Client.run      one per client: connects, runs the link, waits, again
//	link.run        waits for all of these, per connection:
//	  readControl, signal (reads signalling), writeSignalling, media (writes it),
//	  readMedia, ping, accept and one serveStream per new stream (server)
//	coalescer       the flusher; yamux has three of its own; Close waits for all
//
// Server.Close and Client.Close wait for everything that was started.
//
// # Order of calls
//
// The handler of a session is called by the link's signalling reader, and by the
// connection's goroutine before that reader starts and after it has ended; a new
// connection waits for the old one's end. So calls follow each other without a
// lock held, and a handler may call back. Media alone comes from the media
// stream's reader and the one of the datagrams.
//
// A counted frame counts as received once its handler has returned. When a
// connection ends, its reader is waited for before the count is told to the next
// one: each frame is either handled and counted, or sent again.
package mux
