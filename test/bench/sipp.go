package main

import (
	"bytes"
	"context"
	"embed"
	"encoding/csv"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

//go:embed scenarios kamailio.cfg
var embedded embed.FS

// Addresses of this benchmark, all of them of the loopback interface.
const (
	sippPBX    = "127.0.88.1:5060"
	proxyAt    = "127.0.88.2:5060"
	pairAt     = "127.0.88.3"
	phonesAt   = "127.0.89." // and the number of the phone
	sippPhones = 50          // that calls and registrations come from
	sippAtOnce = 50          // calls, or registrations, that are under way
)

// lab is a directory with what SIPp and Kamailio read, and the PBX.
type lab struct {
	dir string
	pbx netip.AddrPort
	uas *exec.Cmd
}

// newLab starts SIPp as a PBX.
func newLab(ctx context.Context, dir string) (*lab, error) {
	l := &lab{dir: dir, pbx: netip.MustParseAddrPort(sippPBX)}
	for _, name := range []string{"call.xml", "register.xml", "pbx.xml"} {
		b, err := embedded.ReadFile("scenarios/" + name)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), b, 0o600)
		}
		if err != nil {
			return nil, err
		}
	}
	phones := "SEQUENTIAL\n"
	for i := range sippPhones {
		phones += fmt.Sprintf("%d;%s%d\n", 100+i, phonesAt, 1+i)
	}
	if err := os.WriteFile(filepath.Join(dir, "phones.csv"), []byte(phones), 0o600); err != nil {
		return nil, err
	}
	l.uas = l.sipp(ctx, "-sf", "pbx.xml", "-i", l.pbx.Addr().String(), "-p", "5060", "-aa")
	if err := l.uas.Start(); err != nil {
		return nil, err
	}
	// SIPp says nothing when it listens: the first load shows it.
	err := eventually(func() bool {
		_, err := l.load(ctx, "register.xml", l.pbx, 1)
		return err == nil
	})
	if err != nil {
		l.close()
		return nil, fmt.Errorf("SIPp does not answer as a PBX: %w", err)
	}
	return l, nil
}

func (l *lab) close() {
	_ = l.uas.Process.Kill()
	_ = l.uas.Wait()
}

func (l *lab) sipp(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "sipp", append(args, "-nostdin", "-max_socket", "1000", "-buff_size", "1048576")...)
	cmd.Dir = l.dir
	cmd.Env = append(os.Environ(), "TERM=dumb")
	return cmd
}

// load has SIPp run a scenario count times against to, as fast as it is answered,
// and returns how many there were in a second. Failures and repetitions are errors:
// the rate was not sustained.
func (l *lab) load(ctx context.Context, scenario string, to netip.AddrPort, count int) (perSecond float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	stat := filepath.Join(l.dir, "stat.csv")
	cmd := l.sipp(ctx, to.String(), "-sf", scenario, "-t", "ui", "-ip_field", "1", "-inf", "phones.csv", "-i", phonesAt+"1", "-p", "5060",
		"-r", "100000", "-l", strconv.Itoa(sippAtOnce), "-m", strconv.Itoa(count), "-timer_resol", "1",
		"-trace_err", "-error_file", filepath.Join(l.dir, "error.log"), "-trace_stat", "-stf", stat, "-timeout", "25", "-recv_timeout", "5000")
	if out, err := cmd.CombinedOutput(); err != nil {
		why, _ := os.ReadFile(filepath.Join(l.dir, "error.log"))
		return 0, fmt.Errorf("sipp %s: %w\n%s\n%s", scenario, err, tail(out), why[:min(len(why), 1000)])
	}
	figures, err := readStat(stat)
	if err != nil {
		return 0, err
	}
	if figures["FailedCall(C)"] != 0 || figures["Retransmissions(C)"] != 0 || int(figures["SuccessfulCall(C)"]) != count {
		return 0, fmt.Errorf("sipp %s: %v of %d failed, %v messages were repeated", scenario, figures["FailedCall(C)"], count, figures["Retransmissions(C)"])
	}
	return figures["CallRate(C)"], nil
}

func tail(b []byte) []byte { return b[max(0, len(b)-2000):] }

// readStat reads the last line of SIPp's statistics by the names of its columns.
func readStat(path string) (map[string]float64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := csv.NewReader(bytes.NewReader(b))
	r.Comma, r.FieldsPerRecord = ';', -1
	lines, err := r.ReadAll()
	if err != nil || len(lines) < 2 {
		return nil, errors.Join(err, fmt.Errorf("%s: %d lines", path, len(lines)))
	}
	figures := make(map[string]float64)
	last := lines[len(lines)-1]
	for i, name := range lines[0] {
		if i >= len(last) {
			break
		}
		if v, err := strconv.ParseFloat(last[i], 64); err == nil {
			figures[name] = v
		}
	}
	return figures, nil
}

// kamailio is Kamailio as the proxy at the edge, in a process group of its own.
type kamailio struct {
	cmd *exec.Cmd
	at  netip.AddrPort
	log bytes.Buffer
}

func startKamailio(ctx context.Context, l *lab) (*kamailio, error) {
	modules, err := filepath.Glob("/usr/lib/*/kamailio/modules")
	if err != nil || len(modules) == 0 {
		return nil, errors.New("no modules of Kamailio in /usr/lib")
	}
	k := &kamailio{at: netip.MustParseAddrPort(proxyAt)}
	b, err := embedded.ReadFile("kamailio.cfg")
	if err != nil {
		return nil, err
	}
	text := strings.NewReplacer("PROXY", k.at.String(), "PBX", l.pbx.String(), "MODULES", modules[0]).Replace(string(b))
	path := filepath.Join(l.dir, "kamailio.cfg")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return nil, err
	}
	k.cmd = exec.CommandContext(ctx, "kamailio", "-DD", "-E", "-f", path, "-Y", l.dir, "-m", "256", "-w", l.dir)
	k.cmd.Stdout, k.cmd.Stderr = &k.log, &k.log
	k.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := k.cmd.Start(); err != nil {
		return nil, err
	}
	return k, nil
}

func (k *kamailio) close() {
	_ = k.cmd.Process.Signal(syscall.SIGTERM)
	_ = k.cmd.Wait()
}

// cpu is what all processes of the group have used.
func (k *kamailio) cpu() (time.Duration, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, path := range stats {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if group, err := syscall.Getpgid(pid); err != nil || group != k.cmd.Process.Pid {
			continue
		}
		t, err := cpuOf(pid)
		if err != nil {
			return 0, err
		}
		sum += t
	}
	return sum, nil
}
