// Package fidelity proves that both programs together change of a SIP message
// what the table of edits in ARCHITECTURE.md says, and nothing else.
//
//	phone --UDP or TCP--> tunnelproxy ==tunnel==> tunneld --UDP--> recording PBX
//
// The programs are built and run as they are; the phones and the PBX are bare
// sockets on loopback addresses. What goes in and what comes out is compared
// byte for byte: the table is written down a second time (model_test.go,
// sdp_test.go), as edits of text that share no code with the programs, and
// its result must be what came out. The model takes from the output only what
// nobody can know before: branches and ports, which it checks.
//
// The messages are those in testdata, a file for each maker, and the corpora
// that may lie beside the repository. Those are sent as they are, in all
// directions and over all transports; table_test.go has the verdict about each
// that is not forwarded.
package fidelity
