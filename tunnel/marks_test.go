package tunnel

import (
	"strings"
	"testing"

	"github.com/siptunnel/siptunnel/internal/dscp"
)

func TestMarks(t *testing.T) {
	for _, test := range []struct {
		media, signalling string
		want              [2]dscp.Class
		bad               string
	}{
		{"", "", [2]dscp.Class{dscp.Media, dscp.Signalling}, ""},
		{"AF41", "0", [2]dscp.Class{34 << 2, 0}, ""},
		{"EFF", "", [2]dscp.Class{}, "MediaDSCP"},
		{"", "64", [2]dscp.Class{}, "SignallingDSCP"},
	} {
		c := Config{Server: "127.0.0.1:1", Name: "default", Password: "x", MediaDSCP: test.media, SignallingDSCP: test.signalling}
		if test.bad != "" {
			if _, err := New(c); err == nil || !strings.Contains(err.Error(), test.bad) || !strings.Contains(err.Error(), "is no DSCP") {
				t.Errorf("%q, %q: %v", test.media, test.signalling, err)
			}
			continue
		}
		if got, err := c.classes(); err != nil || got != test.want {
			t.Errorf("%q, %q: %v, %v", test.media, test.signalling, got, err)
		}
	}
}
