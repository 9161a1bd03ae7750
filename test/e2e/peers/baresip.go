//go:build linux

package peers

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/test/e2e/audio"
	"github.com/siptunnel/siptunnel/test/e2e/lab"
)

// PhoneConfig says what a phone is told in its settings.
type PhoneConfig struct {
	User, Password string
	Domain         string  // of the user
	Outbound       string  // outbound proxy as a SIP URI, e.g. "sip:192.168.77.10;transport=tcp"
	Transport      string  // "udp", "tcp" or "tls", whose certificates this baresip does not verify
	Tone           float64 // Hz, what it says in every call
	AutoAnswer     bool    // else it rings until told to answer
	// Expires is how long a registration is asked for, in seconds; 3600 where it is 0, so that none is refreshed in a test.
	Expires int
	// Mailbox has it subscribe to the messages that wait for its user.
	Mailbox bool
	// NoInstance has it register without +sip.instance, as simple phones do.
	NoInstance bool
}

// A Baresip is a running phone with one account.
type Baresip struct {
	PhoneConfig
	*lab.Process
	Host *lab.Host

	t          testing.TB
	recordings string

	mu      sync.Mutex // guards conn for writing, tokens, answers, events
	conn    net.Conn
	tokens  int
	answers map[string]reply
	events  []Event
}

// An Event is what baresip says has happened. Type is one of baresip's names, e.g. REGISTER_OK, CALL_ESTABLISHED.
type Event struct {
	Type      string `json:"type"`
	Class     string `json:"class"`
	Direction string `json:"direction"`
	PeerURI   string `json:"peeruri"`
	ID        string `json:"id"` // Call-ID
	Param     string `json:"param"`
}

type reply struct {
	OK   bool   `json:"ok"`
	Data string `json:"data"`
}

const baresipConfig = `poll_method epoll
sip_listen %[1]s
net_interface %[4]s
call_local_timeout 120
call_max_calls 20
audio_source aufile,%[2]s
audio_player aubridge,played
audio_alert aubridge,alert
audio_level no
ausrc_format s16
auplay_format s16
auenc_format s16
audec_format s16
audio_txmode poll
rtp_tos 184
rtp_ports 20000-29999
jitter_buffer_delay 2-4
rtp_stats no
module_path /usr/lib/baresip/modules
module g711.so
module aufile.so
module aubridge.so
module sndfile.so
module_tmp uuid.so
module_tmp account.so
module_app menu.so
module_app ctrl_tcp.so
ctrl_tcp_listen 127.0.0.1:4444
snd_path %[3]s
ringback_disabled yes
statmode_default off
`

// toneSeconds is how long a phone can talk before baresip has read its file to the end, and hangs up.
const toneSeconds = 180

// StartBaresip starts a phone on a host and waits until it can be told things, not until it is registered.
func StartBaresip(t testing.TB, host *lab.Host, config PhoneConfig) *Baresip {
	t.Helper()
	lab.Require(t, "baresip")
	dir := filepath.Join(host.Dir(), "baresip")
	b := &Baresip{PhoneConfig: config, Host: host, t: t, recordings: filepath.Join(dir, "heard"), answers: map[string]reply{}}
	if err := os.MkdirAll(b.recordings, 0o700); err != nil {
		t.Fatal(err)
	}
	tone := filepath.Join(dir, "tone.wav")
	for name, content := range map[string]string{
		tone:                         string(audio.EncodeWAV(audio.Tone(config.Tone, toneSeconds))),
		filepath.Join(dir, "config"): config.modules(fmt.Sprintf(baresipConfig, netip.AddrPortFrom(host.Addr, 5060), tone, b.recordings, host.Addr)),
		// The account comes by command, so that no event of it is missed.
		filepath.Join(dir, "accounts"): "# none\n",
	} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	family := "-4"
	if host.Addr.Is6() {
		family = "-6"
	}
	b.Process = host.Start("baresip", "baresip", family, "-f", dir)
	b.connect()
	b.Command("uanew", b.account())
	return b
}

// modules is the text of the configuration without what the phone is to do without.
func (c PhoneConfig) modules(text string) string {
	if c.Mailbox {
		text += "module_app mwi.so\n"
	}
	if c.NoInstance {
		return strings.Replace(text, "module_tmp uuid.so\n", "", 1)
	}
	return text
}

// account is a line of baresip's file of accounts.
func (b *Baresip) account() string {
	expires, answer := b.Expires, "manual"
	if expires == 0 {
		expires = 3600
	}
	if b.AutoAnswer {
		answer = "auto"
	}
	account := fmt.Sprintf("<sip:%s@%s;transport=%s>;auth_user=%s;auth_pass=%s;regint=%d;answermode=%s;audio_codecs=pcmu",
		b.User, b.Domain, b.Transport, b.User, b.Password, expires, answer)
	if b.Outbound != "" {
		account += fmt.Sprintf(";outbound=%q", b.Outbound)
	}
	return account
}

func (b *Baresip) connect() {
	b.t.Helper()
	lab.Eventually(b.t, 10*time.Second, b.User+" listens for commands", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		var err error
		b.conn, err = b.Host.Dial(ctx, "tcp", "127.0.0.1:4444")
		if err != nil && !b.Running() {
			b.t.Fatalf("baresip of %s has ended", b.User)
		}
		return err == nil
	})
	read := make(chan struct{})
	go func() {
		defer close(read)
		b.read(bufio.NewReader(b.conn))
	}()
	b.t.Cleanup(func() {
		_ = b.conn.Close()
		<-read
	})
}

// read takes what baresip says, as netstrings of JSON: events, and answers to commands.
func (b *Baresip) read(from *bufio.Reader) {
	for {
		text, err := readNetstring(from)
		if err != nil {
			return
		}
		var message struct {
			Response bool   `json:"response"`
			Token    string `json:"token"`
			reply
		}
		if err := json.Unmarshal(text, &message); err != nil {
			continue
		}
		b.mu.Lock()
		if message.Response {
			b.answers[message.Token] = message.reply
		} else {
			var event Event
			_ = json.Unmarshal(text, &event)
			b.events = append(b.events, event)
		}
		b.mu.Unlock()
	}
}

var errNetstring = errors.New("not a netstring")

func readNetstring(from *bufio.Reader) ([]byte, error) {
	prefix, err := from.ReadString(':')
	if err != nil {
		return nil, err
	}
	size, err := strconv.Atoi(strings.TrimSuffix(prefix, ":"))
	if err != nil || size < 0 || size > 1<<20 {
		return nil, errNetstring
	}
	text := make([]byte, size+1)
	if _, err := io.ReadFull(from, text); err != nil {
		return nil, err
	}
	if text[size] != ',' {
		return nil, errNetstring
	}
	return text[:size], nil
}

// Command has baresip carry out one of its commands, e.g. "dial", and returns what that printed.
func (b *Baresip) Command(name, params string) string {
	b.t.Helper()
	b.mu.Lock()
	b.tokens++
	token := strconv.Itoa(b.tokens)
	text, _ := json.Marshal(map[string]string{"command": name, "params": params, "token": token})
	_, err := fmt.Fprintf(b.conn, "%d:%s,", len(text), text)
	b.mu.Unlock()
	if err != nil {
		b.t.Fatalf("%s: %s %s: %v", b.User, name, params, err)
	}
	var answer reply
	lab.Eventually(b.t, 5*time.Second, fmt.Sprintf("%s answers %q %q", b.User, name, params), func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		var ok bool
		answer, ok = b.answers[token]
		return ok
	})
	return answer.Data
}

// Events returns what has happened so far.
func (b *Baresip) Events() []Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.events[:len(b.events):len(b.events)]
}

// Mark returns a point in the history of events, for Wait.
func (b *Baresip) Mark() int { return len(b.Events()) }

// Wait waits for an event of one of the types after the mark, and returns the first.
func (b *Baresip) Wait(limit time.Duration, mark int, kinds ...string) Event {
	b.t.Helper()
	var found Event
	ok := lab.Within(limit, func() bool {
		for _, event := range b.Events()[mark:] {
			if slices.Contains(kinds, event.Type) {
				found = event
				return true
			}
		}
		return false
	})
	if !ok {
		b.t.Fatalf("%s: no %v within %v; events: %v", b.User, kinds, limit, b.Events()[mark:])
	}
	return found
}

// Dial calls a number or a SIP URI.
func (b *Baresip) Dial(to string) { b.t.Helper(); b.Command("dial", to) }

// Answer answers the call that rings.
func (b *Baresip) Answer() { b.t.Helper(); b.Command("accept", "") }

// Hangup ends the current call, or cancels it, or refuses it.
func (b *Baresip) Hangup() { b.t.Helper(); b.Command("hangup", "") }

// Heard returns the recordings of what the phone has decoded, one per call, in their order.
func (b *Baresip) Heard() [][]int16 {
	b.t.Helper()
	files, err := filepath.Glob(filepath.Join(b.recordings, "dump-*-dec.wav"))
	if err != nil {
		b.t.Fatal(err)
	}
	var recordings [][]int16
	for _, name := range files {
		file, err := os.ReadFile(name)
		if err != nil {
			b.t.Fatal(err)
		}
		samples, err := audio.DecodeWAV(file)
		if err != nil {
			b.t.Fatalf("%s: %v", name, err)
		}
		recordings = append(recordings, samples)
	}
	return recordings
}
