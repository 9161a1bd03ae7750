package daemon

import (
	"fmt"
	"io"
	"testing"

	"github.com/siptunnel/siptunnel/internal/mux"
)

func TestIsFinal(t *testing.T) {
	for reason, want := range map[error]bool{
		&mux.ByeError{}: true, mux.ErrProtocol: true,
		io.EOF: false, mux.ErrSilence: false, mux.ErrFenced: false,
	} {
		if isFinal(reason) != want || isFinal(fmt.Errorf("link: %w", reason)) != want {
			t.Errorf("%v is not %v", reason, want)
		}
	}
}
