package office

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/siptunnel/siptunnel/internal/atomicfile"
	"github.com/siptunnel/siptunnel/internal/sipfwd"
)

const (
	phonesFileName = "phones.json" // in the state directory, mode 0600
	maxPhonesFile  = 64 << 20      // bytes; what is larger is none of ours

	// A new registration is on disk soon, and once more when the server's part of it
	// has come too. Refreshes alone are written seldom, for the sake of flash memory.
	saveSoon   = time.Second
	saveAgain  = 5 * time.Second
	saveSeldom = time.Minute
)

// memory keeps the registered phones in a file, so that they can be called after
// a restart before they register again.
type memory struct {
	path string
	log  *zap.Logger
	news chan bool // as Changed has them; see changed

	mu      sync.Mutex
	written []byte
	failed  bool // the last time, which is logged once
}

func openMemory(path string, log *zap.Logger) *memory {
	return &memory{path: path, log: log, news: make(chan bool, 2)}
}

// kept is the form of the file.
type kept struct {
	Phones []sipfwd.KeptPhone `json:"phones"`
}

// read gives the phones of the last run. Without them phones have to register
// anew, which they do: no fault of the file keeps the program from starting.
func (m *memory) read() []sipfwd.KeptPhone {
	text, err := readBounded(m.path, maxPhonesFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var k kept
	if err == nil {
		err = json.Unmarshal(text, &k)
	}
	if err != nil {
		m.log.Warn("the phones of before the restart are not known: each can be called when it has registered again",
			zap.String("file", m.path), zap.Error(err))
		return nil
	}
	if len(k.Phones) > 0 {
		m.log.Info("the phones of before the restart can be called again", zap.Int("phones", len(k.Phones)))
	}
	return k.Phones
}

func readBounded(path string, limit int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = errors.New("too large")
	}
	return text, err
}

// changed tells run that there is something to save. It never blocks: of each
// kind of news one is enough.
func (m *memory) changed(now bool) {
	if !now && len(m.news) > 0 {
		return
	}
	select {
	case m.news <- now:
	default:
	}
}

// run saves what phones gives, when that has changed, until ctx ends.
func (m *memory) run(ctx context.Context, phones func() []sipfwd.KeptPhone) {
	var due, again time.Time // zero: not at all
	for {
		var wait <-chan time.Time
		if next := earlier(due, again); !next.IsZero() {
			wait = time.After(time.Until(next))
		}
		select {
		case now := <-m.news:
			if at := time.Now().Add(saveSeldom); due.IsZero() {
				due = at
			}
			if at := time.Now().Add(saveSoon); now && at.Before(due) {
				due = at
			}
			if now {
				again = time.Now().Add(saveAgain)
			}
		case <-wait:
			m.save(phones())
			now := time.Now()
			if !due.IsZero() && !now.Before(due) {
				due = time.Time{}
			}
			if !again.IsZero() && !now.Before(again) {
				again = time.Time{}
			}
		case <-ctx.Done():
			return
		}
	}
}

// earlier is the earlier of two times that may be zero.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// save writes the phones, unless the file has them already.
func (m *memory) save(phones []sipfwd.KeptPhone) {
	m.mu.Lock()
	defer m.mu.Unlock()
	text, err := json.MarshalIndent(kept{phones}, "", " ")
	if err == nil && bytes.Equal(text, m.written) {
		return
	}
	if err == nil {
		err = atomicfile.Write(m.path, append(text, '\n'))
	}
	if err == nil {
		m.written, m.failed = text, false
		return
	}
	if !m.failed {
		m.failed = true
		m.log.Error("the phones cannot be saved: after a restart each can be called only when it has registered again",
			zap.String("file", m.path), zap.Error(err))
	}
}
