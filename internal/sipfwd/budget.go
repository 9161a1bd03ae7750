package sipfwd

import "sync/atomic"

// maxState is how many bytes of its peers' messages one half keeps for
// transactions and dialogs, over all phones: some thousand calls, and nothing
// that a machine would notice.
const maxState = 64 << 20

// budget bounds what one half of the proxy remembers. The zero value is all of
// it; it is safe for concurrent use.
type budget struct{ used atomic.Int64 }

// take reports false, and takes nothing, when n bytes are not left.
func (b *budget) take(n int) bool {
	if b.used.Add(int64(n)) > maxState {
		b.used.Add(-int64(n))
		return false
	}
	return true
}

func (b *budget) give(n int) { b.used.Add(-int64(n)) }

// exchange accounts for now bytes instead of was, be they left or not, and returns
// now.
func (b *budget) exchange(was, now int) int {
	b.used.Add(int64(now - was))
	return now
}

// txBase is what a transaction is taken to need beside its request.
const txBase = 1024

// txCost is what a transaction for the request is taken to need.
func txCost(request []byte) int { return len(request) + txBase }
