package office

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/siptunnel/siptunnel/internal/sipfwd"
)

func keptPhones(n int) []sipfwd.KeptPhone {
	var phones []sipfwd.KeptPhone
	for range n {
		phones = append(phones, sipfwd.KeptPhone{
			Key: "instance:1", Source: netip.MustParseAddr("192.0.2.7"), State: []byte("state"),
			Bindings: []sipfwd.KeptBinding{{
				AOR: "sip:a@b", Contact: "sip:a@192.0.2.7", Expires: time.Unix(2e9, 0).UTC(), Transport: "UDP",
				Remote: netip.MustParseAddrPort("192.0.2.7:5060"), At: netip.MustParseAddrPort("[fe80::1%eth0]:5060"),
			}},
		})
	}
	return phones
}

func TestMemory(t *testing.T) {
	path := filepath.Join(t.TempDir(), phonesFileName)
	m := openMemory(path, zap.NewNop())
	if got := m.read(); got != nil {
		t.Errorf("at the first start: %v", got)
	}
	m.save(keptPhones(2))
	if got := openMemory(path, zap.NewNop()).read(); !reflect.DeepEqual(got, keptPhones(2)) {
		t.Errorf("got %+v", got)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	for _, damaged := range []string{"", "{", "[]", `{"phones":[{"source":"x"}]}`, strings.Repeat(" ", 100) + "\x00"} {
		if err := os.WriteFile(path, []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := m.read(); got != nil {
			t.Errorf("%q: %v", damaged, got)
		}
	}
	if _, err := readBounded(path, 10); err == nil {
		t.Error("no bound")
	}
	m.path = filepath.Join(t.TempDir(), "no", "such")
	m.save(keptPhones(3)) // is logged, and does no harm
}

// TestMemoryTiming: a new phone is saved soon, a refresh seldom, nothing twice.
func TestMemoryTiming(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), phonesFileName)
		m := openMemory(path, zap.NewNop())
		var asked atomic.Int32
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			m.run(ctx, func() []sipfwd.KeptPhone { asked.Add(1); return keptPhones(int(asked.Load())) })
		}()
		after := func(d time.Duration, want int32) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			if got := asked.Load(); got != want {
				t.Errorf("saved %d times, want %d", got, want)
			}
		}
		after(time.Hour, 0)
		for range 10 {
			m.changed(true)
			m.changed(false)
		}
		after(saveSoon/2, 0)
		after(saveSoon, 1)
		after(saveAgain, 2)
		after(time.Hour, 2)
		m.changed(false)
		after(saveSeldom/2, 2)
		m.changed(false)
		after(saveSeldom, 3)
		after(time.Hour, 3)
		cancel()
		<-done
	})
}
