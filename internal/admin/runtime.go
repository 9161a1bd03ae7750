package admin

import (
	"os"
	"runtime"
	"runtime/metrics"
)

// Runtime is what a program takes of its machine. It comes back to what it was when calls and registrations have ended.
type Runtime struct {
	Goroutines int    `json:"goroutines"`
	HeapBytes  uint64 `json:"heap_bytes"`           // of objects, what is not collected yet included
	OpenFiles  int    `json:"open_files,omitempty"` // sockets mostly; Linux only
}

// RuntimeNow measures this program.
func RuntimeNow() Runtime {
	heap := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(heap)
	r := Runtime{Goroutines: runtime.NumGoroutine(), HeapBytes: heap[0].Value.Uint64()}
	if dir, err := os.Open("/proc/self/fd"); err == nil {
		names, _ := dir.Readdirnames(-1)
		_ = dir.Close()
		r.OpenFiles = max(len(names)-1, 0) // without dir
	}
	return r
}
