// Package daemon is tunneld: its command line, and the assembly of the parts that run beside the PBX.
//
// `tunneld serve` owns everything. What runs in it, and who ends it:
//
//	server       mux.Server: listener, connections and sessions of the offices; ended by serve
//	office       one per session: a sipfwd.PBXSide and the relays of its calls; ended by the session
//	phone ports  sipfwd.PhonePorts: the UDP sockets that the PBX knows the phones by; outlive sessions, ended by serve
//	pbx          one goroutine that looks after the PBX's name and health; ended by serve
//	control      admin.Server on the socket that the other commands ask; ended by serve
//
// The end comes from a signal, and takes place in the reverse order of the start, within stopTimeout.
package daemon
