package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/siptunnel/siptunnel/internal/atomicfile"
)

func TestEndpoint(t *testing.T) {
	for _, test := range []struct {
		text string
		want Endpoint
		back string
		bad  string
	}{
		{text: "", want: Endpoint{}},
		{text: ":5090", want: Endpoint{Port: 5090}, back: ":5090"},
		{text: "pbx.example", want: Endpoint{Host: "pbx.example"}, back: "pbx.example"},
		{text: "pbx.example.:5060", want: Endpoint{Host: "pbx.example.", Port: 5060}, back: "pbx.example.:5060"},
		{text: "192.0.2.1:1", want: Endpoint{Host: "192.0.2.1", Port: 1}, back: "192.0.2.1:1"},
		{text: "2001:db8::1", want: Endpoint{Host: "2001:db8::1"}, back: "2001:db8::1"},
		{text: "[2001:db8::1]", want: Endpoint{Host: "2001:db8::1"}, back: "2001:db8::1"},
		{text: "[2001:db8::1]:65535", want: Endpoint{Host: "2001:db8::1", Port: 65535}, back: "[2001:db8::1]:65535"},
		{text: "5090", bad: "a port is written :5090"},
		{text: "host:", bad: "no valid port"},
		{text: "host:0", bad: "port 0"},
		{text: "host:65536", bad: "no valid port"},
		{text: "host:sip", bad: "no valid port"},
		{text: "a:b:c", bad: "not host:port"},
		{text: "sip:pbx.example:5060", bad: "not host:port"},
		{text: "pbx example:5060", bad: "neither an address nor a host name"},
		{text: "-pbx:5060", bad: "neither an address nor a host name"},
		{text: "pbx..example", bad: "neither an address nor a host name"},
		{text: "user@pbx", bad: "neither an address nor a host name"},
		{text: strings.Repeat("a.", 130) + "a", bad: "longer than 253"},
	} {
		var got Endpoint
		err := got.UnmarshalText([]byte(test.text))
		if test.bad != "" {
			if err == nil || !strings.Contains(err.Error(), test.bad) {
				t.Errorf("%q: got %v, error %v; want error with %q", test.text, got, err, test.bad)
			}
			continue
		}
		if err != nil || got != test.want || got.String() != test.back {
			t.Errorf("%q: got %#v as %q, error %v", test.text, got, got, err)
		}
	}
}

func TestPortRange(t *testing.T) {
	for text, want := range map[string]struct{ ports, pairs int }{
		"50000-59999": {10000, 5000},
		"50001-50004": {4, 1},
		"50000-50000": {1, 0},
		"50000-50001": {2, 1},
		"50001-50002": {2, 0},
		"1024-65535":  {64512, 32256},
	} {
		var r PortRange
		if err := r.UnmarshalText([]byte(text)); err != nil || r.Len() != want.ports || r.Pairs() != want.pairs || r.String() != text {
			t.Errorf("%s: %v, %d ports, %d pairs, error %v", text, r, r.Len(), r.Pairs(), err)
		}
	}
	for _, text := range []string{"", "50000", "50000-", "-50000", "60000-50000", "80-90", "1024-65536", "a-b", "1-2-3"} {
		var r PortRange
		if r.UnmarshalText([]byte(text)) == nil {
			t.Errorf("%q was taken as %v", text, r)
		}
	}
	a, b := PortRange{2000, 3000}, PortRange{3000, 4000}
	if !a.Overlaps(b) || !b.Overlaps(a) || a.Overlaps(PortRange{3001, 4000}) || !a.Contains(3000) || a.Contains(3001) {
		t.Error("overlaps")
	}
}

func TestAddressAndNetwork(t *testing.T) {
	for _, text := range []string{"0.0.0.0", "::", "224.0.0.1", "fe80::1%eth0", "host", "1.2.3"} {
		var a Address
		if a.UnmarshalText([]byte(text)) == nil {
			t.Errorf("address %q was taken", text)
		}
	}
	var a Address
	if err := a.UnmarshalText([]byte("::ffff:192.0.2.1")); err != nil || a.String() != "192.0.2.1" {
		t.Errorf("%v, %v", a, err)
	}
	var n Network
	if err := n.UnmarshalText([]byte("192.0.2.77/24")); err != nil || n.String() != "192.0.2.0/24" {
		t.Errorf("%v, %v", n, err)
	}
	if err := n.UnmarshalText([]byte("2001:db8::1")); err != nil || n.String() != "2001:db8::1/128" {
		t.Errorf("%v, %v", n, err)
	}
	if n.UnmarshalText([]byte("192.0.2.0/33")) == nil {
		t.Error("a /33 was taken")
	}
}

func TestIsPublic(t *testing.T) {
	for text, want := range map[string]bool{
		"8.8.8.8": true, "2a00:1450::1": true, "10.0.0.1": false, "192.168.1.1": false, "172.16.0.1": false, "100.64.1.1": false,
		"127.0.0.1": false, "169.254.0.1": false, "fd00::1": false, "fe80::1": false, "::1": false, "198.51.100.1": false, "2001:db8::1": false,
	} {
		if got := IsPublic(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}

// grammar is a command line with the features that the programs use.
type grammar struct {
	Config File   `help:"File."`
	Dir    string `setting:"" default:"/d"`
	Serve  struct {
		Listen  Endpoint  `setting:"" default:":5090" help:"Where to listen."`
		Ports   PortRange `setting:"" default:"50000-59999"`
		Allowed []Network `setting:""`
		Places  []string  `setting:""`
		Secret  string
	} `cmd:""`
	Status struct{} `cmd:""`
}

func parse(t *testing.T, file string, args ...string) (*grammar, error) {
	t.Helper()
	var g grammar
	if file != "" {
		path := filepath.Join(t.TempDir(), "t.yaml")
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config", path)
	}
	var out bytes.Buffer
	_, err := Parse(&g, "test", "A test.", nil, args, &out, &out)
	return &g, err
}

func TestFlagWinsOverFileOverDefault(t *testing.T) {
	const file = "# comment\ndir: /from/file\nlisten: 192.0.2.1:7000\nallowed:\n  - 192.0.2.0/24\n  - 2001:db8::/32\n"
	g, err := parse(t, file, "serve", "--listen", ":8000")
	if err != nil {
		t.Fatal(err)
	}
	if g.Dir != "/from/file" || g.Serve.Listen.String() != ":8000" || g.Serve.Ports.String() != "50000-59999" || len(g.Serve.Allowed) != 2 {
		t.Errorf("got %+v", g)
	}
	if g, err = parse(t, file, "status"); err != nil || g.Dir != "/from/file" {
		t.Errorf("a command that does not read every setting: %+v, %v", g, err)
	}
	for _, empty := range []string{"# nothing\n", "---\n", "~\n"} {
		if g, err = parse(t, empty, "serve"); err != nil || g.Serve.Listen.String() != ":5090" {
			t.Errorf("empty file %q: %+v, %v", empty, g, err)
		}
	}
}

// TestMapping: what is a list of key=value on the command line may be a mapping.
func TestMapping(t *testing.T) {
	g, err := parse(t, "places:\n  here: 192.0.2.1:5060\n  'there': 7\n", "serve")
	if err != nil || strings.Join(g.Serve.Places, " ") != "here=192.0.2.1:5060 there=7" {
		t.Errorf("%q, %v", g.Serve.Places, err)
	}
	for _, bad := range []string{"places:\n  a:\n    b: c\n", "places:\n  a: b,c\n", "dir:\n  a: b\n"} {
		if _, err := parse(t, bad, "serve"); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestFileErrorsNameTheLine(t *testing.T) {
	for _, test := range []struct{ name, file, problem, remedy string }{
		{"unknown key", "dir: /x\nlisten_on: :1\n", `:2: unknown setting "listen_on"`, "known are allowed, dir, listen, places, ports"},
		{"close to a known key", "Listem: :1\n", `:1: unknown setting "Listem"`, "did you mean listen?"},
		{"flag that is no setting", "secret: x\n", `:1: unknown setting "secret"`, "known are"},
		{"bad value", "\n\nlisten: 5090\n", `:3: listen: "5090": 5090 is a number`, "Where to listen."},
		{"bad item", "allowed: [192.0.2.0/24, moon]\n", `:1: allowed: "moon" is not a network`, ""},
		{"no value", "listen:\n", ":1: listen: has no value", "Where to listen."},
		{"nested", "listen:\n  host: x\n", ":2: listen: is not a plain value", "Where to listen."},
		{"twice", "dir: /x\ndir: /y\n", `:2: "dir" is set twice`, "remove one"},
		{"list", "- dir\n", ":1: not lines of the form  key: value", "like  listen: :5090"},
		{"not YAML", "listen: [\n", "is not valid YAML", "like  listen: :5090"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := parse(t, test.file, "serve")
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Code != ExitConfig {
				t.Fatalf("got %v", err)
			}
			if !strings.Contains(e.Error(), test.problem) || !strings.Contains(e.Remedy, test.remedy) {
				t.Errorf("problem %q, remedy %q", e.problem(), e.Remedy)
			}
		})
	}
	if _, err := parse(t, "", "serve", "--config", "/nowhere/t.yaml"); ExitOf(err) != ExitConfig {
		t.Errorf("missing file: %v", err)
	}
}

func TestUsageErrors(t *testing.T) {
	for _, args := range [][]string{{}, {"dance"}, {"serve", "--lisen", ":1"}, {"serve", "--listen", "5090"}, {"serve", "extra"}} {
		_, err := parse(t, "", args...)
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Code != ExitUsage || !strings.HasSuffix(e.Remedy, " --help") || !strings.HasPrefix(e.Remedy, "see test") {
			t.Errorf("%q: %v", args, err)
		}
	}
}

func TestStateDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	state, err := OpenStateDir(dir, "test")
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("made with %v, %v", info.Mode(), err)
	}
	if _, err := OpenStateDir(dir, "test"); ExitOf(err) != ExitTaken {
		t.Errorf("a second instance: %v", err)
	}
	if other, err := OpenStateDir(dir, "other"); err != nil {
		t.Errorf("another program: %v", err)
	} else {
		other.Close()
	}
	if err := atomicfile.Write(state.Path("secret"), []byte("x")); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(state.Path("secret")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("secret written with %v, %v", info.Mode(), err)
	}
	if err := CheckStateDir(dir); err != nil {
		t.Errorf("a safe directory: %v", err)
	}
	os.Chmod(state.Path("secret"), 0o640)
	if err := CheckStateDir(dir); ExitOf(err) != ExitUnsafe {
		t.Errorf("a file that the group can read: %v", err)
	}
	os.Chmod(state.Path("secret"), 0o600)
	os.Chmod(dir, 0o770)
	if err := CheckStateDir(dir); ExitOf(err) != ExitUnsafe {
		t.Errorf("a directory that the group can write: %v", err)
	}
	os.Chmod(dir, 0o700)
	state.Close()
	if state, err = OpenStateDir(dir, "test"); err != nil {
		t.Errorf("after Close: %v", err)
	} else {
		state.Close()
	}
	if err := CheckStateDir(filepath.Join(dir, "secret")); ExitOf(err) != ExitUnsafe {
		t.Errorf("a file: %v", err)
	}
}

func TestRootGivesTheLockToTheOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	if err := os.Chown(dir, 12345, 12346); err != nil {
		t.Fatal(err)
	}
	state, err := OpenStateDir(dir, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer state.Close()
	info, err := os.Stat(state.Path("test.lock"))
	if err != nil {
		t.Fatal(err)
	}
	if owner, _ := ownerOf(info); owner != 12345 {
		t.Errorf("owner %d", owner)
	}
}

func TestStateError(t *testing.T) {
	for cause, want := range map[error]Exit{fs.ErrPermission: ExitUnsafe, errors.New("damaged"): ExitUnsafe, unix.ENOSPC: ExitFailed} {
		err := StateError("the key", fmt.Errorf("write: %w", cause), "mend it")
		if err.Code != want || !errors.Is(err, cause) {
			t.Errorf("%v has code %d", err, err.Code)
		}
	}
}

func TestDefaultStateDir(t *testing.T) {
	got := DefaultStateDir(func(name string) string { return map[string]string{"HOME": "/home/x"}[name] })
	want := "/home/x/.local/state/siptunnel"
	if os.Geteuid() == 0 {
		want = "/var/lib/siptunnel"
	}
	if got != want {
		t.Errorf("got %s", got)
	}
}

func TestReadSecret(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if got, err := ReadSecret("password", write("good", " correct horse \r\n", 0o600), nil); err != nil || got != "correct horse" {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := ReadSecret("password", write("group", "s3cret", 0o640), nil); err != nil || got != "s3cret" {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := ReadSecret("password", "-", strings.NewReader("from stdin\n")); err != nil || got != "from stdin" {
		t.Errorf("got %q, %v", got, err)
	}
	for name, path := range map[string]string{
		"absent":   filepath.Join(dir, "absent"),
		"empty":    write("empty", "\n", 0o600),
		"two":      write("two", "s3cret\nline\n", 0o600),
		"long":     write("long", strings.Repeat("x", maxSecret+1), 0o600),
		"readable": write("readable", "s3cret", 0o644),
	} {
		_, err := ReadSecret("password", path, nil)
		if ExitOf(err) != ExitConfig {
			t.Errorf("%s: %v", name, err)
		} else if strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: the error shows the secret: %v", name, err)
		}
	}
}

func TestFirstLine(t *testing.T) {
	rest := strings.NewReader("one\ntwo")
	if line, err := io.ReadAll(&firstLine{r: rest}); err != nil || string(line) != "one\n" || rest.Len() != len("two") {
		t.Errorf("%q, %v, %d left", line, err, rest.Len())
	}
}

func TestReport(t *testing.T) {
	var out bytes.Buffer
	code := Report(&out, "tunneld", Errorf(ExitTaken, "choose another", "port\x1b[2J\ntaken"))
	if code != ExitTaken || out.String() != "tunneld: port [2J taken\n         choose another\n" {
		t.Errorf("%d %q", code, out.String())
	}
	out.Reset()
	if Report(&out, "tunneld", nil) != ExitOK || out.Len() != 0 {
		t.Errorf("%q", out.String())
	}
	if code := Report(&out, "tunneld", errors.New("x")); code != ExitFailed || out.String() != "tunneld: x\n" {
		t.Errorf("%d %q", code, out.String())
	}
}

func TestChecklist(t *testing.T) {
	var out bytes.Buffer
	list := NewChecklist(&out)
	list.OK("port", "free")
	list.Warn("address", "set it", "private")
	if list.Err() != nil {
		t.Errorf("a warning failed the list: %v", list.Err())
	}
	list.Fail("PBX", Errorf(ExitUnreachable, "start it", "silent"))
	list.Fail("state", Errorf(ExitUnsafe, "", "open"))
	if err := list.Err(); ExitOf(err) != ExitUnreachable || err.Error() != "check failed: PBX: silent" {
		t.Errorf("got %v", list.Err())
	}
	want := "ok    port             free\n" +
		"warn  address          private\n" +
		"                       set it\n" +
		"FAIL  PBX              silent\n" +
		"                       start it\n" +
		"FAIL  state            open\n"
	if out.String() != want {
		t.Errorf("got\n%s", out.String())
	}
}

func TestChecklistPorts(t *testing.T) {
	addr := netip.AddrFrom4([4]byte{127, 97, byte(os.Getpid() / 250 % 250), byte(1 + os.Getpid()%250)})
	take := func(port uint16) {
		conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, port)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
	}
	take(2001)
	take(2002)
	for _, test := range []struct {
		ports PortRange
		n     int
		code  Exit
	}{
		{PortRange{2000, 2003}, 1, ExitOK},
		{PortRange{2001, 2002}, 1, ExitTaken},
		{PortRange{2000, 2003}, 2, ExitTaken},
		{PortRange{2000, 2005}, 2, ExitOK},
		{PortRange{2003, 2004}, 2, ExitTaken},
	} {
		var out bytes.Buffer
		list := NewChecklist(&out)
		list.Ports("ports", "--ports", addr, test.ports, test.n)
		if ExitOf(list.Err()) != test.code {
			t.Errorf("%v by %d: %s", test.ports, test.n, out.String())
		}
	}
	listener, err := net.Listen("tcp", netip.AddrPortFrom(addr, 2004).String())
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for ports, code := range map[PortRange]Exit{{2004, 2004}: ExitTaken, {2004, 2005}: ExitOK} {
		var out bytes.Buffer
		list := NewChecklist(&out)
		list.Ports("ports", "--ports", addr, ports, 1, "udp", "tcp")
		if ExitOf(list.Err()) != code || !strings.Contains(out.String(), "/udp+tcp") {
			t.Errorf("%v over UDP and TCP: %s", ports, out.String())
		}
	}
}
