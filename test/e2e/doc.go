// Package e2e proves tunnelproxy and tunneld against peers that this project did not write: Kamailio as the PBX, baresip and
// linphone as the phones, SIPp where a test needs a peer that does exactly what it is told. Where it matters what each byte
// becomes, phones and servers around Kamailio are scripts of the test (peers.Script). Everything runs in network namespaces
// (package lab) laid out like this:
//
//	phones: baresip, SIPp; a namespace each    tunnelproxy
//	192.168.77.101 and up                      192.168.77.10   "office"
//	       |                                        |
//	======= lan ===================+=========================
//	                               |
//	                               | 192.168.77.1
//	                             "nat"    masquerades
//	                               | 198.51.100.2
//	                               |
//	                               | 198.51.100.1
//	                             "wan"    both its links are searched for what must not be there
//	                               | 203.0.113.1
//	                               |
//	                               | 203.0.113.10
//	                             "pbx"    tunneld on port 5090
//	                               |      Kamailio on 127.0.0.1:5060, 203.0.113.10:5060, 172.20.0.1:5060
//	                               | 172.20.0.1
//	                               |
//	======= desk ==================+=========================
//	       |
//	phones and trunk beside the PBX: baresip, SIPp; a namespace each
//	172.20.0.101 and up
//
// Tests of several offices add a second one, with a tunnelproxy and a credential of its own (Lab.Branch):
//
//	phones                                     tunnelproxy
//	192.168.78.101 and up                      192.168.78.10   "office2"
//	       |                                        |
//	======= lan2 ==================+=========================
//	                               |
//	                               | 192.168.78.1
//	                             "nat2"   masquerades
//	                               | 192.0.2.2
//	                               |
//	                               | 192.0.2.1
//	                             "wan"    its third link, searched like the others
//
// The office may have a second network (Lab.VLAN). No router connects it to the first; tunnelproxy is in both:
//
//	phones                                     tunnelproxy
//	192.168.79.101 and up                      192.168.79.10   "office"
//	       |                                        |
//	======= vlan ============================================
//
// Tests of IPv6 give the first drawing addresses of it too (Lab.UseIPv6), and phones that have no others (Lab.Phone6, Lab.Desk6);
// nothing is translated on the way:
//
//	lan   fd00:77::/64          phones ::101 and up, tunnelproxy ::10, "nat" ::1
//	      2001:db8:98::/64      "nat" ::2, "wan" ::1
//	      2001:db8:203::/64     "wan" ::1, "pbx" ::10
//	desk  fd00:c0::/64          "pbx" ::1, phones beside the PBX ::101 and up; Kamailio on [::1]:5060 and both of these
//
// Tests of PBXs that stand in for each other have two more Kamailios, each on a host of its own beside the PBX's (Lab.Desk), and
// a dnsmasq on the PBX's host that only tunneld asks.
//
// Tests of bad paths have a link between "nat" and "wan" that delays, reorders, loses and holds back packets as the test wants it
// (lab.NewImpaired, package impair), and calls whose media the test itself sends and takes (voices).
//
// A test proves what it says by what was heard (recordings of the phones, tones measured) and by what was on the wire (tcpdump
// on the links), not by logs of the programs under test. TestPeersDirect* run the peers without the tunnel: when one of those
// fails the rig is at fault, and nothing else here means anything.
//
// TestMatrix plays all kinds of calls between phones that SIPp plays by the scenarios in peers/scenarios/calls, and compares
// every message, and the media, at both ends of a call.
//
// The tests need root and the Debian packages that `make test-deps` installs; without them they skip, and fail where CI=true.
// They are compiled with the build tag e2e only: `make e2e`; `make soak` runs that of package soak, which needs no root, at full
// length. What a failed test captured stays with `go test -artifacts`.
package e2e
