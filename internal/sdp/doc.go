// Package sdp reads a session description (RFC 8866) line by line and rewrites
// the addresses and ports in it, and nothing else.
//
// A relay in the path of media puts its own address into the descriptions that
// pass. It understands m=, c= and a few attributes; every other line is copied
// byte for byte, in its place: T.38, SRTP keys, fingerprints, bandwidth, vendor
// attributes, and lines that are not SDP at all. A description is never
// re-encoded, so what this package does not know cannot be lost in it.
//
// The package is pure: it knows no socket, clock, goroutine or logger. With a
// reused [Description] and destination, nothing is allocated.
package sdp
