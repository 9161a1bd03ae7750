// Package office is tunnelproxy: its command line, and the assembly of the parts that run in the office. Of the tunnel
// it uses what package tunnel offers to anybody, and nothing else.
//
// `tunnelproxy serve` owns everything. What runs in it, and who ends it:
//
//	client   tunnel.Client: the connection to tunneld; ended by serve
//	pool     one goroutine that keeps some tunnel.Media allocated ahead of the calls; ended by serve
//	side     sipfwd.LANSide: listeners, phones and calls; ended by serve
//	port     one mediaPort for each medium of a call: a relay on the LAN and two goroutines that read the tunnel; ended by side
//	control  admin.Server on the socket that the other commands ask; ended by serve
//
// The end comes from a signal, and takes place in the reverse order of the start, within stopTimeout.
package office
