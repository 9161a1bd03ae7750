//go:build linux

package peers

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/test/e2e/audio"
	"github.com/siptunnel/siptunnel/test/e2e/lab"
)

// A Linphone is a running linphonec with one account. What it hears goes into one recording for all its calls, and what it says
// comes from a file: it needs no sound card.
type Linphone struct {
	PhoneConfig
	*lab.Process
	Host *lab.Host

	t        testing.TB
	commands *os.File
	heard    string
	logFile  string
}

const linphoneConfig = `[sip]
sip_port=%[1]d
sip_tcp_port=%[2]d
sip_tls_port=%[3]d
use_ipv6=0
ipv6_migration_done=1
verify_server_certs=1
verify_server_cn=1
root_ca=%[4]s
default_proxy=0
register_only_when_network_is_up=0
media_encryption=none
[net]
mtu=1300
[rtp]
audio_rtp_port=7078-7178
[audio_codec_0]
mime=PCMU
rate=8000
channels=1
enabled=1
[audio_codec_1]
mime=opus
rate=48000
channels=2
enabled=0
[audio_codec_2]
mime=speex
rate=16000
channels=1
enabled=0
[audio_codec_3]
mime=speex
rate=8000
channels=1
enabled=0
[video]
enabled=0
[proxy_0]
reg_proxy=<%[7]s>
reg_route=<%[7]s;lr>
reg_identity=sip:%[8]s@%[5]s
reg_expires=3600
reg_sendregister=1
publish=0
dial_escape_plus=0
[auth_info_0]
username=%[8]s
userid=%[8]s
passwd=%[9]s
realm=%[5]s
domain=%[5]s
`

// StartLinphone starts a phone on a host and waits until it can be told things, not until it is registered. Over TLS it trusts the
// certificates in the file ca (PEM).
func StartLinphone(t testing.TB, host *lab.Host, config PhoneConfig, ca string) *Linphone {
	t.Helper()
	lab.Require(t, "linphonec")
	dir := filepath.Join(host.Dir(), "linphone")
	p := &Linphone{PhoneConfig: config, Host: host, t: t, heard: filepath.Join(dir, "heard.wav")}
	for _, below := range []string{".local/share/linphone", ".config/linphone"} {
		if err := os.MkdirAll(filepath.Join(dir, below), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	ports := map[string]int{"udp": 0, "tcp": 0, "tls": 0}
	ports[config.Transport] = -1 // any; 0 is off
	if config.Transport == "udp" {
		ports["udp"] = 5060
	}
	p.logFile = filepath.Join(dir, "linphonerc.log")
	resolver := filepath.Join(dir, "resolv.conf")
	tone, rc, fifo := filepath.Join(dir, "tone.wav"), filepath.Join(dir, "linphonerc"), filepath.Join(dir, "commands")
	for name, content := range map[string]string{
		resolver: "nameserver 127.0.0.1\n",
		tone:     string(audio.EncodeWAV(audio.Tone(config.Tone, toneSeconds))),
		rc: fmt.Sprintf(linphoneConfig, ports["udp"], ports["tcp"], ports["tls"], ca, config.Domain,
			config.Transport, config.Outbound, config.User, config.Password),
	} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	err := syscall.Mkfifo(fifo, 0o600)
	if err == nil {
		// Opened for both, so that neither end waits for the other, and the phone's standard input does not end.
		p.commands, err = os.OpenFile(fifo, os.O_RDWR, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.commands.Close() })
	answer := ""
	if config.AutoAnswer {
		answer = "-a"
	}
	p.Process = host.Start("linphone", "env", "HOME="+dir,
		"unshare", "--mount", "sh", "-c",
		`mount --bind "$2" /etc/resolv.conf && exec linphonec -d 5 -l "$0.log" -S $3 -c "$0" <"$1"`, rc, fifo, resolver, answer)
	for _, command := range []string{"soundcard use files", "play " + tone, "record " + p.heard} {
		p.Command(command)
	}
	return p
}

// Command types one of linphonec's commands.
func (p *Linphone) Command(text string) {
	p.t.Helper()
	if _, err := fmt.Fprintln(p.commands, text); err != nil {
		p.t.Fatalf("%s: %s: %v", p.User, text, err)
	}
}

// log is what the phone says about itself, as far as it goes.
func (p *Linphone) log() string {
	p.t.Helper()
	text, err := os.ReadFile(p.logFile)
	if err != nil && !os.IsNotExist(err) {
		p.t.Fatal(err)
	}
	return string(text)
}

// LatestCall returns the number by which linphonec knows its latest call.
func (p *Linphone) LatestCall() string {
	p.t.Helper()
	all := regexp.MustCompile(`assigned id (\d+)`).FindAllStringSubmatch(p.Output(), -1)
	if all == nil {
		p.t.Fatalf("%s has no call", p.User)
	}
	return all[len(all)-1][1]
}

// Mark returns a point in the phone's log, for Wait.
func (p *Linphone) Mark() int { return len(p.log()) }

// Wait waits until the phone has logged, after the mark, something that matches the pattern.
func (p *Linphone) Wait(limit time.Duration, mark int, pattern string) string {
	p.t.Helper()
	compiled := regexp.MustCompile(pattern)
	var found string
	lab.Eventually(p.t, limit, fmt.Sprintf("linphone of %s logs %q", p.User, pattern), func() bool {
		found = compiled.FindString(p.log()[mark:])
		return found != ""
	})
	return found
}

// Heard returns the recording as far as it goes.
func (p *Linphone) Heard() []int16 {
	p.t.Helper()
	file, err := os.ReadFile(p.heard)
	if err != nil && !os.IsNotExist(err) {
		p.t.Fatal(err)
	}
	// The header is written when a call is over, and does not count the calls after that.
	header := audio.EncodeWAV(nil)
	if len(file) < len(header) {
		return nil
	}
	copy(file, header)
	samples, err := audio.DecodeWAV(file)
	if err != nil {
		p.t.Fatalf("%s: %v", p.heard, err)
	}
	return samples
}
