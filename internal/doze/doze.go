// Package doze lets a goroutine wait in the kernel without telling the runtime, for
// the threads that media goes through.
//
// A thread that tells the runtime of its sleep wakes another one, which is to find work
// for the processor that it leaves, and must ask for a processor when it comes back. A
// thread that sleeps every two milliseconds pays more for that than for the packets
// that it has slept for. So it keeps its processor, GOMAXPROCS being larger by as many
// as there are such threads (MakeRoom), and nobody has one less for it.
//
// A wait is short, since who keeps a processor keeps the garbage collector waiting too,
// up to the signal that ends the wait early.
package doze

import "time"

// Longest is for how long a thread may wait with a processor of the runtime.
const Longest = 4 * time.Millisecond

// threads is how many threads of a program doze: who reads the sockets of the calls,
// and who reads that of the tunnel.
const threads = 2
