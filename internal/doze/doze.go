// Package doze lets a goroutine wait in the kernel without telling the runtime, for
// the threads that media goes through.
//
// A thread that tells the runtime of its sleep wakes another one, which is to find work
// for the processor that it leaves, and must ask for a processor when it comes back. A
// thread that sleeps every two milliseconds pays more for that than for the packets
// that it has slept for. So it keeps its processor, GOMAXPROCS being larger by as many
// as there are such threads (MakeRoom), and nobody has one less for it.
//
// Who needs that thread stopped, the garbage collector above all, sends it a signal, which
// interrupts the wait; the runtime does so every 10 ms too.
package doze

import "time"

// Longest is for how long a thread waits with a processor of the runtime before it takes
// itself for idle and tells the runtime. It is longer than the time between two reports of
// the tunnel's: each time that a thread goes idle the runtime's monitor looks after its
// processor for a while, at the price of some hundred packets.
const Longest = 200 * time.Millisecond

// threads is how many threads of a program doze: who reads the sockets of the calls,
// and who reads that of the tunnel.
const threads = 2
