//go:build linux

package peers

import (
	"embed"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/test/e2e/audio"
	"github.com/siptunnel/siptunnel/test/e2e/lab"
)

//go:embed scenarios/*.xml
var scenarios embed.FS

// SIPpConfig says which scenario SIPp plays, and on which port.
type SIPpConfig struct {
	Scenario string            // a file of scenarios, without its extension
	Port     uint16            // of SIP
	Tone     float64           // Hz, of the stream where the scenario has one
	Users    map[string]string // user to password, for a scenario that calls as one after the other
	Args     []string
}

// SIPpMediaPort is where SIPp echoes RTP with -rtp_echo.
const SIPpMediaPort = 6000

// StartSIPp starts SIPp on a host. It exits with 0 when every call that it was told to count (-m) went as the scenario says. A
// scenario whose name begins with "uas" waits for calls: then StartSIPp returns when it does.
func StartSIPp(t testing.TB, host *lab.Host, config SIPpConfig) *lab.Process {
	t.Helper()
	lab.Require(t, "sipp")
	dir := filepath.Join(host.Dir(), "sipp-"+config.Scenario)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	scenario, err := scenarios.ReadFile("scenarios/" + config.Scenario + ".xml")
	if err != nil {
		t.Fatal(err)
	}
	var csv strings.Builder
	csv.WriteString("SEQUENTIAL\n")
	for user, password := range config.Users {
		fmt.Fprintf(&csv, "%[1]s;[authentication username=%[1]s password=%[2]s]\n", user, password)
	}
	for name, content := range map[string][]byte{
		"scenario.xml": scenario,
		"users.csv":    []byte(csv.String()),
		"tone.ulaw":    audio.EncodeULaw(audio.Tone(config.Tone, 60)),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if len(config.Users) > 0 {
		config.Args = append([]string{"-inf", "users.csv"}, config.Args...)
	}
	addr := host.Addr.String()
	// SIPp looks for the file of a stream in its working directory.
	args := append([]string{"env", "--chdir=" + dir, "TERM=dumb", "sipp",
		"-sf", "scenario.xml", "-i", addr, "-mi", addr, "-p", strconv.Itoa(int(config.Port)), "-nostdin", "-f", "600",
		"-trace_err", "-error_file", "errors.log", "-trace_msg", "-message_file", "messages.log"}, config.Args...)
	process := host.Start("sipp-"+config.Scenario, args...)
	if strings.HasPrefix(config.Scenario, "uas") {
		lab.Eventually(t, 10*time.Second, process.Name+" waits for calls", func() bool {
			return host.Listens("udp", config.Port) || host.Listens("tcp", config.Port)
		})
	}
	return process
}
